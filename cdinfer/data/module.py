"""One DataModule over everything ``cdinfer train --data`` accepts.

    PATH --layout--> shards    -> batches of planes (uint8 latents)
                     pictures  -> batches of images (float32 RGB)
    URL ------------ shards    -> the same batches, streamed (``stream.py``)

Batches are dicts: ``label (B,)``, ``size (B, 2)`` in pixels, ``index (B,)``, and either
``image (B, 3, H, W)`` or ``planes``, a dict of integer ``(B, C, h, w)`` tensors. Sets with masks
add ``mask (B, H, W)`` uint8, which starts where the picture or the latents do.
"""

import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cdinfer.bitstream.remote import is_url, shown
from cdinfer.data.draws import EpochSampler
from cdinfer.data.folders import Augment, PictureDataset
from cdinfer.data.index import read_index
from cdinfer.data.layout import find_pictures, is_shards
from cdinfer.data.loader import Loader, share_step
from cdinfer.data.masks import IGNORE_INDEX
from cdinfer.data.mosaics import mosaic_set
from cdinfer.data.remote_shards import fetch_index
from cdinfer.data.sample import sample_set
from cdinfer.data.shards import ShardDataset
from cdinfer.data.stream import StreamDataset
from cdinfer.data.stream_loader import StreamLoader

log = logging.getLogger(__name__)

#: Pictures whose symbols are counted for the coder's tables.
CALIBRATION_PICTURES = 128

Input = Literal["latents", "decoded", "original"]


class DataModule(LightningDataModule):
    """Loaders over a set of shards or a folder of pictures.

    Args:
        path: shards or a folder (see ``layout.py``), or the URL of shards (see ``remote.py``);
            without one, an embedded sample set.
        batch_size: samples a training batch.
        crop: side of the square crop, in pixels; random in training, centred otherwise.
            ``None`` takes pictures whole; they must then be of one size.
        resize: short side to scale pictures to first; shards were scaled when exported.
        flip: mirror pictures at random in training. Latents are never mirrored: the latents of
            a mirrored picture are not the mirrored latents (``Index.augmentations`` lists what is
            proven).
        splits: which lists of a folder to use (``blocked`` for ``splits/train_blocked.txt``).
        input: what networks will read; it decides what can be cropped here.
        whole: validate and test on whole pictures, one at a time (codecs, segmentation).
        workers: loading processes. 0 is fastest for shards.
        memory: MiB of decoded pictures to keep.
        seed: of order, crops and flips.
        shuffle: ``full`` mixes all training samples; ``blocks`` reads shards that memory cannot
            hold a few blocks at a time and mixes those (see ``draws.py``). Streams from a URL
            have a way of their own (see ``stream.py``).
        prefetch: batches that a thread reads ahead, without worker processes; 0 for no thread.
        on_error: ``skip`` puts another sample in the place of a damaged one of shards, or leaves it
            out of validation and test, and warns; ``stop`` ends with its name.
        scale: smallest and largest factor by which pictures are resized at random in training,
            before they are cropped (``[0.5, 1.5]`` for segmentation).
        augment: ``strong`` trains on random parts, resized, and TrivialAugment (classes of whole
            pictures; see ``strong.py``).
        sample: the embedded set to take without a path: pictures that have a class each (``cls``)
            or mosaics with masks (``seg``).

    Attributes:
        classes: names, of the set's labels or of its masks' values.
        masks: what masks have in common; ``None`` where classes are of whole pictures.
        palette: colour (red, green, blue) of each class of the masks; empty without.
        ignore_index: value of pixels without a class.
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
        shuffle: Literal["full", "blocks"] = "full",
        prefetch: int = 2,
        on_error: Literal["stop", "skip"] = "stop",
        scale: tuple[float, float] | None = None,
        augment: Augment = "plain",
        sample: Literal["cls", "seg"] = "cls",
    ) -> None:
        super().__init__()
        self.url = path if path is not None and is_url(path) else None
        if path is None:
            self.root: Path | str = sample_set() if sample == "cls" else mosaic_set()
        else:
            self.root = Path(path) if self.url is None else shown(path)
        #: The end of the path: what a codec's card calls the data.
        self.name = "/".join(Path(self.root).resolve().parts[-2:])
        self.batch_size, self.crop, self.resize, self.flip = batch_size, crop, resize, flip
        self.input, self.whole, self.workers = input, whole, workers
        self.memory, self.seed, self.shuffle, self.prefetch = memory, seed, shuffle, prefetch
        self.on_error: Literal["stop", "skip"] = on_error
        self._train_loader: Loader | None = None
        self._resumed: dict[str, int] = {}
        if crop is not None and crop < 1:
            raise ValueError(f"expected a crop of at least 1 pixel, got --data.crop {crop}")
        self.sharded = self.url is not None or is_shards(Path(self.root))
        if shuffle == "blocks" and not self.sharded:
            raise ValueError(
                f"'{self.root}' holds pictures, which lie in no blocks: leave out --data.shuffle"
            )
        if self.sharded:
            _check_latents(self.root, input, resize, splits, scale, augment)
            index = read_index(Path(self.root)) if self.url is None else fetch_index(self.url)
            self.index = index
            self.classes: list[str] = index.classes
            self.lengths = {name: split.samples for name, split in index.splits.items()}
            self.resize = index.preprocessing["resize"]
            #: Stream id of the shards; None for pictures.
            self.stream: int | None = index.stream
            self.masks = index.masks
        else:
            self.pictures = find_pictures(Path(self.root), splits)
            self.classes = self.pictures.classes
            self.lengths = {name: len(items) for name, items in self.pictures.splits.items()}
            self.stream = None
            self.masks = self.pictures.masks
            _check_augmentation(crop, scale, augment, self.masks is not None)
        self.scale, self.augment = scale, augment
        self.palette = [] if self.masks is None else [list(rgb) for rgb in self.masks.palette]
        self.ignore_index = IGNORE_INDEX if self.masks is None else self.masks.ignore_index

    @property
    def preprocessing(self) -> dict[str, int | None]:
        """What was done to pictures before the network, for ``run.json``."""
        return {"resize": self.resize, "crop": self.crop}

    def train_dataloader(self) -> Loader:
        length = self._length("train")
        rank, world = self._process()
        batch_size = min(self.batch_size, -(-length // world))
        state = self._resumed
        if state and world != state["world"] and self.batch_size == state["asked"]:
            batch_size = share_step(state, world)
            log.info("resuming on %d processes with batches of %d samples", world, batch_size)
        if self.url is not None:
            self._train_loader = self._stream(self.url, "train", batch_size)
        else:
            dataset = self._dataset("train")
            blocks = self._blocks(dataset)
            sampler = EpochSampler(length, self.seed, batch_size, rank, world, blocks)
            self._train_loader = self._loader(dataset, batch_size, sampler)
        if state:
            self._train_loader.load_state_dict(state)
        return self._train_loader

    def val_dataloader(self) -> Loader:
        return self._whole_split("val")

    def test_dataloader(self) -> Loader:
        return self._whole_split("test")

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Whole training pictures, one at a time, evenly spread over at most 128."""
        assert not self.sharded
        items = self.pictures.splits["train"]
        step = -(-len(items) // CALIBRATION_PICTURES)
        return DataLoader(PictureDataset(Path(self.root), items[::step], None, self.resize))

    def _whole_split(self, split: str) -> Loader:
        batch_size = 1 if self.whole else self.batch_size
        length, (rank, world) = self._length(split), self._process()
        if length < world:  # their metrics would wait for each other for ever
            raise ValueError(
                f"{world} processes cannot share {length} {split} samples: give "
                f"--trainer.devices {length}, or more pictures"
            )
        if self.url is not None:
            return self._stream(self.url, split, batch_size)
        return self._loader(self._dataset(split), batch_size, range(rank, length, world))

    def state_dict(self) -> dict[str, int]:
        """Return how far the training epoch has come.

        Lightning keeps states of loaders too, but asks for them too late where a schedule of
        learning rates needs to know how long training will be.
        """
        loader = self._train_loader
        return {} if loader is None else {**loader.state_dict(), "asked": self.batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make training go on from there."""
        self._resumed = state_dict

    def _process(self) -> tuple[int, int]:
        """Return the number of this process and of all that train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _length(self, split: str) -> int:
        if not self.lengths.get(split):
            remedy = f"add a folder {split}/ or a list splits/{split}.txt"
            if self.sharded:
                remedy = f"export it from pictures that have a split {split}"
            raise ValueError(f"'{self.root}' has no {split} pictures: {remedy}")
        return self.lengths[split]

    def _stream(self, url: str, split: str, batch_size: int) -> Loader:
        (rank, world), (crop, whole) = self._process(), self._crop(split)
        data = StreamDataset(
            url,
            split,
            crop,
            self.input == "latents",
            batch_size,
            split == "train",
            self.seed,
            rank,
            world,
            index=self.index,
            on_error=self.on_error,
            whole=whole,
        )
        return StreamLoader(data, self.workers, self.prefetch)

    def _crop(self, split: str) -> tuple[int | None, bool]:
        """Return the crop of a split's samples, and whether they are whole and come alone."""
        whole = self.whole and split != "train"
        return None if whole else self.crop, whole

    def _dataset(self, split: str) -> Dataset[Any]:
        crop, whole = self._crop(split)
        if self.sharded:
            latents = self.input == "latents"
            return ShardDataset(
                Path(self.root),
                split,
                crop,
                latents,
                self.seed,
                on_error=self.on_error,
                whole=whole,
            )
        return PictureDataset(
            Path(self.root),
            self.pictures.splits[split],
            crop,
            self.resize,
            self.flip,
            self.seed,
            self.memory,
            self.masks,
            len(self.classes),
            self.scale if split == "train" else None,
            self.augment if split == "train" else "plain",
        )

    def _blocks(self, dataset: Dataset[Any]) -> list[int] | None:
        """Return how many samples lie together, where order is to keep to that."""
        if self.shuffle == "full":
            return None
        assert isinstance(dataset, ShardDataset)
        return [int(n) for n in np.diff(dataset.reader.bounds)]

    def _loader(
        self, dataset: Dataset[Any], batch_size: int, sampler: EpochSampler | range
    ) -> Loader:
        return Loader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=_as_it_is if self.sharded else _stack,
            prefetch=self.prefetch,
        )


def _check_latents(
    root: Path | str,
    input: Input,
    resize: int | None,
    splits: str | None,
    scale: tuple[float, float] | None,
    augment: Augment,
) -> None:
    """Refuse what the latents in ``root`` cannot give.

    Raises:
        ValueError: saying what to do instead.
    """
    if input == "original":
        raise ValueError(
            f"'{root}' holds latents, not pictures: for input original give "
            "--data the folder it was exported from"
        )
    if resize is not None or splits is not None:
        flag = "--resize" if splits is None else "--splits"
        raise ValueError(
            f"'{root}' holds latents that are resized and split already: give "
            f"{flag} to cdinfer export instead"
        )
    if scale is not None or augment == "strong":
        flag = "--data.scale" if augment == "plain" else "--data.augment"
        raise ValueError(
            f"'{root}' holds latents, which can only be cropped: leave out {flag}, or "
            "train on pictures"
        )


def _check_augmentation(
    crop: int | None, scale: tuple[float, float] | None, augment: Augment, masks: bool
) -> None:
    """Refuse what pictures cannot be trained with.

    Raises:
        ValueError: saying what to give instead.
    """
    if scale is not None and not 0 < scale[0] <= scale[1] < math.inf:
        raise ValueError(
            "expected a smallest and a largest factor, as --data.scale [0.5,1.5], got "
            f"[{scale[0]},{scale[1]}]"
        )
    if augment == "strong" and masks:
        raise ValueError(
            "--data.augment strong is for classes of whole pictures: for masks give --data.scale "
            "[0.5,1.5] instead"
        )
    if augment == "strong" and scale is not None:
        raise ValueError("--data.augment strong resizes at random by itself: drop --data.scale")
    if crop is None and (scale is not None or augment == "strong"):
        flag = "--data.scale" if augment == "plain" else "--data.augment strong"
        raise ValueError(f"{flag} gives pictures of a size of their own: give --data.crop with it")


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
