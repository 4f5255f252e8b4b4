"""Sets of latents: what ``cdinfer export`` writes and training reads.

    DST/
        index.json                 what the set is; blocks, not samples
        codec/                     the codec that reads and wrote it
        train-00000.tar            members KEY.cdb, blocks of many bitstreams (``blocks.py``)
        train-00000.targets.tar    members KEY.json.bz2, labels and keys (``targets.py``), and
                                   KEY.masks, the class of every pixel (``mask_blocks.py``)

Sets have masks or labels: the index of those with masks says ``"masks": {"palette": [[red, green,
blue], ...], "ignore_index": 255}`` (one colour a class; ``classes`` names them), and of each shard
``"masks": [[offset, length], ...]``, where those of each block lie. Masks are lossless: reading a
sample inflates its own alone.

Both tars open with stock webdataset. Reading is map style: a batch is one entropy-decoding call.
``cdinfer shards`` changes sets: new files under new names, then a new index (``edit.py``). Who
reads a set meanwhile goes on with the old one, or is told to open it again.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.codecs.cae import CAE
from cdinfer.data.batches import Batcher, Ints
from cdinfer.data.draws import Draw, random_offsets
from cdinfer.data.index import read_index
from cdinfer.data.reader import Damage, Reader, read_set_codec


class ShardDataset(Dataset[dict[str, Any]]):
    """The samples of one split; made for batches, see :meth:`__getitems__`.

    Args:
        root: folder of the set.
        split: ``train``, ``val`` or ``test``.
        crop: side of the crop in pixels, a multiple of the stride where latents are cropped;
            ``None`` takes all.
        crop_latents: crop the planes (networks on latents); otherwise planes stay whole and
            ``crop (B, 4)`` says what to cut after decoding.
        seed: of the random crops.
        whole: samples are asked for one at a time, uncropped, and may have any size; otherwise a
            crop that not every sample can give is refused at once.
        on_error: what to do with a sample that is damaged. ``stop`` raises; ``skip`` warns and, in
            training, takes another sample in its place, so that batches stay full; in validation
            it leaves the sample out, so that none counts twice. Where nothing is left of a batch
            it is an empty dict, which `Loader` passes over.

    Attributes:
        damaged: what was skipped so far in this process: number of the sample -> why.

    Raises:
        ValueError: if the set is damaged or does not fit ``crop``.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        crop: int | None,
        crop_latents: bool = True,
        seed: int = 0,
        whole: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        assert crop is None or not whole
        index = read_index(root)
        self.reader = Reader(root, index, split)
        self.root, self.classes, self.on_error = root, index.classes, on_error
        self.damaged: dict[int, str] = {}
        codec = read_set_codec(root / "codec", index, str(root))
        self.reader.check_files()
        self._labels = np.zeros(len(self.reader), np.int64)
        self._labelled = np.zeros(len(self.reader.entries), np.bool_)
        self.batcher = Batcher(str(root), codec, crop, crop_latents, seed, whole, index)
        self.batcher.check_latents({entry[-2:] for _, _, entry in self.reader.entries})
        if self.batcher.sizes_matter:
            self.batcher.check_sizes(self._picture_sizes())

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """Return a batch of one."""
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> dict[str, Any]:
        """Return a batch: planes, label, size, index, and crop where decoding comes first.

        Sets with masks add ``mask (B, h, w)`` uint8, cut as the planes are, or as ``crop`` says;
        without a crop it has the size of the pictures.

        One number each for validation, or a draw of a training epoch.

        Raises:
            Damage: with ``on_error`` stop, naming shard, block and key.
            ValueError: if every sample is damaged.
        """
        while True:
            epochs, samples = self._choose(draws)
            try:
                return self._batch(epochs, samples)
            except Damage as error:
                if self.on_error == "stop":
                    raise
                self._skip(error)

    @property
    def codec(self) -> CAE:
        """The codec of the set."""
        return self.batcher.codec

    @property
    def labels(self) -> Ints:
        """The class of every sample; read when they are first asked for.

        With ``on_error`` skip, -1 stands for those that cannot be read.
        """
        for number in np.flatnonzero(~self._labelled).tolist():
            try:
                self._read_labels(number)
            except Damage as error:
                if self.on_error == "stop":
                    raise
                self._skip(error)
                self._labels[error.samples] = -1
        return self._labels

    def keys(self) -> list[str]:
        """Return the path of every sample's picture below the exported folder."""
        numbers = range(len(self.reader.entries))
        return [key for number in numbers for _, key in self.reader.targets(number)]

    def file(self, index: int) -> bytes:
        """Return one sample's complete ``.cdi`` file."""
        (block,), (place,) = self.reader.find(np.array([index]))
        return self.reader.block(int(block))[int(place)]

    def summary(self) -> str:
        """Say how many samples were skipped so far in this process, or nothing."""
        if not self.damaged:
            return ""
        count, first = len(self.damaged), next(iter(self.damaged.values()))
        return (
            f"skipped {count} of {len(self)} {self.reader.split} samples of '{self.root}', which "
            f"are damaged; the first: {first}"
        )

    def _choose(self, draws: Sequence[Draw | int]) -> tuple[Ints, Ints]:
        """Return epochs and numbers of the samples to read; validation's epochs are -1."""
        pairs = [(d.epoch, d.sample) if isinstance(d, Draw) else (-1, d) for d in draws]
        if self.damaged:
            pairs = [
                (epoch, self._other(epoch, sample) if epoch >= 0 else sample)
                for epoch, sample in pairs
                if epoch >= 0 or sample not in self.damaged
            ]
        epochs, samples = np.array(pairs, np.int64).reshape(-1, 2).T
        return epochs, samples

    def _other(self, epoch: int, sample: int) -> int:
        """Return the sample to train on in place of one: itself unless it is damaged.

        A function of (seed, epoch, sample) and of what is damaged on disk: the first that is good
        after a random one.
        """
        if sample not in self.damaged:
            return sample
        if len(self.damaged) == len(self):
            raise ValueError(f"every {self.reader.split} sample of '{self.root}' is damaged")
        room = np.array([[len(self) - 1]])
        other = int(
            random_offsets(~self.batcher.seed, np.array([epoch]), np.array([sample]), room)[0, 0]
        )
        while other in self.damaged:
            other = (other + 1) % len(self)
        return other

    def _skip(self, error: Damage) -> None:
        self.damaged |= dict.fromkeys(error.samples, str(error))
        count = "a sample" if len(error.samples) == 1 else f"{len(error.samples)} samples"
        warnings.warn(f"skipped {count} of {self.reader.split}: {error}", stacklevel=4)

    def _batch(self, epochs: Ints, samples: Ints) -> dict[str, Any]:
        if not len(samples):
            return {}
        numbers, places = (found.tolist() for found in self.reader.find(samples))
        for number in dict.fromkeys(numbers):
            if not self._labelled[number]:
                self._read_labels(number)
        blocks = [self.reader.block(number) for number in numbers]
        sizes = np.array([b.sizes[i] for b, i in zip(blocks, places, strict=True)], np.int64)
        shapes = [self.reader.entries[number][2][-2:] for number in numbers]
        labels, masks = self._labels[samples], list[memoryview]()
        if self.reader.index.masks is not None:
            masks = [self.reader.masks(n)[i] for n, i in zip(numbers, places, strict=True)]
        try:
            return self.batcher.batch(
                lambda i, k: blocks[i].parsed(places[i], k),
                shapes,
                sizes,
                labels,
                epochs,
                samples,
                masks,
            )
        except BitstreamError as error:
            i = error.index or 0
            self.reader.blame(numbers[i], places[i], error)

    def _read_labels(self, number: int) -> None:
        rows = self.reader.targets(number)
        self._labels[self.reader.samples(number)] = [label for label, _ in rows]
        self._labelled[number] = True

    def _picture_sizes(self) -> set[tuple[int, int]]:
        """Return all heights and widths in pixels; they stand in the blocks."""
        sizes: set[tuple[int, int]] = set()
        for number in range(len(self.reader.entries)):
            try:
                sizes |= {
                    (h, w) for h, w in np.unique(self.reader.block(number).sizes, axis=0).tolist()
                }
            except Damage as error:
                if self.on_error == "stop":
                    raise
                self._skip(error)
        return sizes
