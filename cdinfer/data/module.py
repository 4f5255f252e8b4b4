"""One DataModule over everything ``cdinfer train --data`` accepts.

    PATH --layout--> shards    -> batches of planes (uint8 latents)
                     pictures  -> batches of images (float32 RGB)

Batches are dicts: ``label (B,)``, ``size (B, 2)`` in pixels, ``index (B,)``, and either
``image (B, 3, H, W)`` or ``planes``, a dict of integer ``(B, C, h, w)`` tensors.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cdinfer.data.draws import EpochSampler
from cdinfer.data.folders import PictureDataset
from cdinfer.data.index import read_index
from cdinfer.data.layout import find_pictures, is_shards
from cdinfer.data.sample import sample_set
from cdinfer.data.shards import ShardDataset

#: Pictures whose symbols are counted for the coder's tables.
CALIBRATION_PICTURES = 128

Input = Literal["latents", "decoded", "original"]


class DataModule(LightningDataModule):
    """Loaders over a set of shards or a folder of pictures.

    Args:
        path: shards or a folder (see ``layout.py``); without one, the embedded sample set.
        batch_size: samples a training batch.
        crop: side of the square crop, in pixels; random in training, centred otherwise.
            ``None`` takes pictures whole; they must then be of one size.
        resize: short side to scale pictures to first; shards were scaled when exported.
        flip: mirror pictures at random in training. Latents are never mirrored: the latents of
            a mirrored picture are not the mirrored latents.
        splits: which lists of a folder to use (``blocked`` for ``splits/train_blocked.txt``).
        input: what networks will read; it decides what can be cropped here.
        whole: validate and test on whole pictures, one at a time (codecs).
        workers: loading processes. 0 is fastest for shards.
        memory: MiB of decoded pictures to keep.
        seed: of order, crops and flips.
    """

    def __init__(
        self,
        path: str | None = None,
        batch_size: int = 32,
        crop: int | None = None,
        resize: int | None = None,
        flip: bool = True,
        splits: str | None = None,
        input: Input = "latents",
        whole: bool = False,
        workers: int = 0,
        memory: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(path) if path is not None else sample_set()
        #: The end of the path: what a codec's card calls the data.
        self.name = "/".join(self.root.resolve().parts[-2:])
        self.batch_size, self.crop, self.resize, self.flip = batch_size, crop, resize, flip
        self.input, self.whole, self.workers = input, whole, workers
        self.memory, self.seed = memory, seed
        if crop is not None and crop < 1:
            raise ValueError(f"expected a crop of at least 1 pixel, got --data.crop {crop}")
        self.sharded = is_shards(self.root)
        if self.sharded:
            if input == "original":
                raise ValueError(
                    f"'{self.root}' holds latents, not pictures: for input original give "
                    "--data the folder it was exported from"
                )
            if whole:
                raise ValueError(
                    f"'{self.root}' holds latents and codecs learn from pictures: give --data a "
                    "folder of pictures"
                )
            if resize is not None or splits is not None:
                flag = "--resize" if splits is None else "--splits"
                raise ValueError(
                    f"'{self.root}' holds latents that are resized and split already: give "
                    f"{flag} to cdinfer export instead"
                )
            index = read_index(self.root)
            self.classes: list[str] = index.classes
            self.lengths = {name: split.samples for name, split in index.splits.items()}
            self.resize = index.preprocessing["resize"]
            #: Stream id of the shards; None for pictures.
            self.stream: int | None = index.stream
        else:
            self.pictures = find_pictures(self.root, splits)
            self.classes = self.pictures.classes
            self.lengths = {name: len(items) for name, items in self.pictures.splits.items()}
            self.stream = None

    @property
    def preprocessing(self) -> dict[str, int | None]:
        """What was done to pictures before the network, for ``run.json``."""
        return {"resize": self.resize, "crop": self.crop}

    def train_dataloader(self) -> DataLoader[Any]:
        dataset, length = self._dataset("train", self.crop), self.lengths["train"]
        rank, world = self._process()
        batch_size = min(self.batch_size, -(-length // world))
        sampler = EpochSampler(length, self.seed, batch_size, rank, world)
        return self._loader(dataset, batch_size, sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._whole_split("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._whole_split("test")

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Whole training pictures, one at a time, evenly spread over at most 128."""
        assert not self.sharded
        items = self.pictures.splits["train"]
        step = -(-len(items) // CALIBRATION_PICTURES)
        return DataLoader(PictureDataset(self.root, items[::step], None, self.resize))

    def _whole_split(self, split: str) -> DataLoader[Any]:
        crop, batch_size = (None, 1) if self.whole else (self.crop, self.batch_size)
        dataset, (rank, world) = self._dataset(split, crop), self._process()
        return self._loader(dataset, batch_size, range(rank, self.lengths[split], world))

    def _process(self) -> tuple[int, int]:
        """Return the number of this process and of all that train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _dataset(self, split: str, crop: int | None) -> Dataset[Any]:
        if not self.lengths.get(split):
            raise ValueError(
                f"'{self.root}' has no {split} pictures: add a folder {split}/ or a list "
                f"splits/{split}.txt"
            )
        if self.sharded:
            return ShardDataset(self.root, split, crop, self.input == "latents", self.seed)
        return PictureDataset(
            self.root,
            self.pictures.splits[split],
            crop,
            self.resize,
            self.flip,
            self.seed,
            self.memory,
        )

    def _loader(
        self, dataset: Dataset[Any], batch_size: int, sampler: EpochSampler | range
    ) -> DataLoader[Any]:
        collate = _as_it_is if self.sharded else _stack
        return DataLoader(
            dataset, batch_size, sampler=sampler, num_workers=self.workers, collate_fn=collate
        )


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401
    """Shards hand out whole batches."""
    return batch


def _stack(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Make a batch of pictures, which must have one size."""
    sizes = {tuple(sample["image"].shape[-2:]) for sample in samples}
    if len(sizes) > 1:
        least = min(min(size) for size in sizes)
        raise ValueError(
            f"expected pictures of one size in a batch, got {len(sizes)} sizes: "
            f"give --data.crop, for example --data.crop {least}"
        )
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
