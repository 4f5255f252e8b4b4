"""The tars of one split: opened when they are needed, checked on first touch.

    sample --number of its block, place in it--> block (``blocks.py``), targets (``targets.py``),
                                                 masks (``mask_blocks.py``)

Tars are memory-mapped; nothing is copied but what is asked for.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cdinfer.codecs.cae import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.data.blocks import Block
from cdinfer.data.index import BlockEntry, Index, ShardEntry
from cdinfer.data.mask_blocks import MaskBlock
from cdinfer.data.targets import read_targets

REMEDY = "copy the set or export it again"


class Damage(ValueError):  # noqa: N818  (what it is about, more than that it failed)
    """Samples that cannot be read: one, or all of a block.

    Args:
        message: one line that names shard, block and key.
        samples: their numbers in the split.
    """

    def __init__(self, message: str, samples: range = range(0)) -> None:
        super().__init__(message)
        self.samples = samples


def check_lengths(root: Path, shard: ShardEntry) -> Iterator[str]:
    """Say which tars of a shard are missing or not as long as the index says."""
    for name, expected in zip(shard.tars, shard.sizes, strict=True):
        path = root / name
        size = path.stat().st_size if path.is_file() else "no file"
        if size != expected:
            yield f"{name}: expected {expected} bytes, got {size}"


def read_set_codec(folder: Path, index: Index, name: str) -> CAE:
    """Read the codec of a set from its folder; ``name`` is that of the set, for errors.

    Raises:
        ValueError: if it is damaged or not that of the index.
    """
    codec = read_codec(folder)
    if (codec.stream, codec.stride) != (index.stream, index.stride):
        raise ValueError(f"the codec in '{name}' is not the one of its index; export the set again")
    return codec


class Reader:
    """Blocks and targets of one split.

    Args:
        root: folder of the set.
        index: from `read_index`.
        split: ``train``, ``val`` or ``test``.

    Attributes:
        entries: the shard of every block of the split, its number there and its entry.

    Raises:
        ValueError: if there is no such split.
    """

    def __init__(self, root: Path, index: Index, split: str) -> None:
        self.shards = index.shards(split, str(root))
        self.root, self.split, self.index = root, split, index
        self.entries: list[tuple[ShardEntry, int, BlockEntry]] = [
            (shard, number, entry)
            for shard in self.shards
            for number, entry in enumerate(shard.blocks)
        ]
        counts = [entry.samples for _, _, entry in self.entries]
        #: Number of the first sample of every block, and of all samples.
        self.bounds: NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)
        self._maps: dict[Path, memoryview] = {}
        self._blocks: dict[int, Block] = {}
        self._masks: dict[int, MaskBlock] = {}

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def find(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each sample the number of its block and its place in it.

        Raises:
            IndexError: if there is no such sample.
        """
        strange = samples[(samples < 0) | (samples >= len(self))]
        if len(strange):
            raise IndexError(int(strange[0]))
        blocks = np.searchsorted(self.bounds, samples, side="right") - 1
        return blocks, samples - self.bounds[blocks]

    def check_files(self) -> None:
        """Refuse tars that are missing or not as long as the index says.

        Raises:
            ValueError: naming the first.
        """
        for shard in self.shards:
            for fault in check_lengths(self.root, shard):
                raise ValueError(f"damaged {self.root}/{fault}; {REMEDY}")

    def block(self, number: int) -> Block:
        """Return a block.

        Raises:
            Damage: if it is damaged, or not the one that the index says.
        """
        if number not in self._blocks:
            shard, _, entry = self.entries[number]
            data = self._map(shard.tars[0])[entry.offset : entry.offset + entry.length]
            try:
                block = Block(data, self.name(number))
                if not block.fits(entry.samples, entry[-2:], self.index.stride):
                    raise ValueError(
                        f"damaged block {block.name}: it does not fit its index; {REMEDY}"
                    )
            except ValueError as error:
                raise Damage(str(error), self.samples(number)) from error
            self._blocks[number] = block
        return self._blocks[number]

    def targets(self, number: int) -> list[tuple[int, str]]:
        """Return label and key of every sample of a block.

        Raises:
            Damage: if they are damaged.
        """
        shard, place, entry = self.entries[number]
        offset, length = shard.targets[place]
        data = bytes(self._map(shard.tars[1])[offset : offset + length])
        try:
            return read_targets(data, entry.samples, self.index.num_labels)
        except ValueError as error:
            raise self._damaged_targets(number, error) from error

    def masks(self, number: int) -> MaskBlock:
        """Return the masks of a block, not read yet, of a set that has them.

        Raises:
            Damage: if they are damaged.
        """
        if number not in self._masks:
            shard, place, entry = self.entries[number]
            offset, length = shard.masks[place]
            data = self._map(shard.tars[1])[offset : offset + length]
            try:
                self._masks[number] = MaskBlock(data, entry.samples)
            except ValueError as error:
                raise self._damaged_targets(number, error) from error
        return self._masks[number]

    def samples(self, number: int) -> range:
        """Return the numbers of a block's samples."""
        return range(*self.bounds[number : number + 2].tolist())

    def name(self, number: int) -> str:
        """Say where a block lies."""
        shard, place, entry = self.entries[number]
        return f"{place} at byte {entry.offset} of {self.root / shard.tars[0]}"

    def blame(self, number: int, place: int, error: Exception) -> NoReturn:
        """Raise what is wrong with one sample of a block, by its key.

        Raises:
            Damage: always.
        """
        try:
            key = f"'{self.targets(number)[place][1]}'"
        except Damage:
            key = f"{place} (its targets are damaged as well)"
        sample = self.samples(number)[place]
        raise Damage(
            f"damaged block {self.name(number)}, key {key}: {error}", range(sample, sample + 1)
        ) from error

    def _damaged_targets(self, number: int, error: ValueError) -> Damage:
        shard, place, _ = self.entries[number]
        path = self.root / shard.tars[1]
        return Damage(f"damaged {path}, block {place}: {error}; {REMEDY}", self.samples(number))

    def _map(self, name: str) -> memoryview:
        path = self.root / name
        if path not in self._maps:
            try:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                raise ValueError(
                    f"{path} is gone: '{self.root}' was changed while it was read; open it again"
                ) from None
            self._maps[path] = memoryview(mapped)
        return self._maps[path]

    def __getstate__(self) -> dict[str, Any]:
        """Memory maps stay behind when a worker process is started."""
        return {**self.__dict__, "_maps": {}, "_blocks": {}, "_masks": {}}
