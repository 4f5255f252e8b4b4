"""Sets of latents: what ``cdinfer export`` writes and training reads.

    DST/
        index.json                 what the set is; blocks, not samples
        codec/                     the codec that reads and wrote it
        train-00000.tar            members KEY.cdb, blocks of many bitstreams (``blocks.py``)
        train-00000.targets.tar    members KEY.json.bz2: {"samples": [[label, key], ...]}

Both tars open with stock webdataset. Targets stand apart so that relabelling rewrites no
bitstream. Reading is map style: tars are memory-mapped, a batch is one entropy-decoding call.
"""

import bz2
import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.codecs.zoo import read_codec
from cdinfer.data.blocks import Block
from cdinfer.data.draws import Draw, crop_offset, split_draw
from cdinfer.data.index import read_index, reason

#: Bytes of targets that one sample may take, uncompressed; paths have at most 4096.
MAX_TARGET = 2**14


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
        check_crop: refuse at once a crop that not every sample can give.

    Attributes:
        labels: the class of every sample.

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
        check_crop: bool = True,
    ) -> None:
        index = read_index(root)
        if split not in index.splits:
            raise ValueError(f"'{root}' has no split {split}, only {', '.join(index.splits)}")
        self.root, self.crop, self.crop_latents, self.seed = root, crop, crop_latents, seed
        self.stride, self.classes = index.stride, index.classes
        self.shards = index.splits[split].shards
        self.codec = read_codec(root / "codec")
        if (self.codec.stream, self.codec.stride) != (index.stream, index.stride):
            raise ValueError(f"the codec in '{root}' is not the one of its index; export again")
        self._check_files()
        self._entries = [(shard, block) for shard in self.shards for block in shard.blocks]
        self._ends = np.cumsum([entry.samples for _, entry in self._entries], dtype=np.int64)
        self._maps: dict[Path, memoryview] = {}
        self._blocks: dict[int, Block] = {}
        self.labels: NDArray[np.int64] = np.array([label for label, _ in self._targets()], np.int64)
        if check_crop:
            self._check_crop()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """Return a batch of one."""
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> dict[str, Any]:
        """Return a batch: planes, label, size, index, and crop where decoding comes first."""
        picks = [split_draw(draw, self.seed) for draw in draws]
        places = [self._place(index) for index, _ in picks]
        sizes = np.array([self._block(block).sizes[item] for block, item in places], np.int64)
        boxes = [self._box(size, rng) for size, (_, rng) in zip(sizes.tolist(), picks, strict=True)]
        samples = self._unpack(places)
        if self.crop_latents:
            samples = [_cut(planes, box) for planes, box in zip(samples, boxes, strict=True)]
        indices = torch.tensor([index for index, _ in picks])
        batch: dict[str, Any] = {
            "planes": {n: torch.stack([s[n] for s in samples]) for n in self.codec.planes},
            "label": torch.from_numpy(self.labels[indices.numpy()]),
            "size": torch.from_numpy(sizes),
            "index": indices,
        }
        if not self.crop_latents:
            batch["crop"] = torch.tensor(boxes)
        return batch

    def keys(self) -> list[str]:
        """Return the path of every sample's picture below the exported folder."""
        return [key for _, key in self._targets()]

    def file(self, index: int) -> bytes:
        """Return one sample's complete ``.cdi`` file."""
        block, item = self._place(index)
        return self._block(block)[item]

    def _unpack(self, places: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Return the planes of samples: one decoding call for each latent size among them."""
        shapes = [self._entries[block][1][-2:] for block, _ in places]
        samples: list[dict[str, Tensor]] = [{} for _ in places]
        for shape in dict.fromkeys(shapes):
            chosen = [i for i, other in enumerate(shapes) if other == shape]
            files = [self._block(places[i][0])[places[i][1]] for i in chosen]
            try:
                planes = self.codec.unpack(files)
            except BitstreamError as error:
                block, item = places[chosen[error.index or 0]]
                raise ValueError(f"{self._block(block).name}, file {item}: {error}") from error
            for position, i in enumerate(chosen):
                samples[i] = {name: plane[position] for name, plane in planes.items()}
        return samples

    def _box(self, size: list[int], rng: np.random.Generator | None) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a crop: in latents, or in pixels to decode."""
        unit = self.stride if self.crop_latents else 1
        height, width = (-(-side // unit) for side in size)
        if self.crop is None:
            return 0, 0, height, width
        side = self.crop // unit
        return *crop_offset((height, width), (side, side), rng), side, side

    def _check_crop(self) -> None:
        shapes = {entry[-2:] for _, entry in self._entries}
        sizes = {(height * self.stride, width * self.stride) for height, width in shapes}
        if not self.crop_latents:
            if len(shapes) > 1:
                raise ValueError(
                    f"'{self.root}' has pictures of {len(shapes)} sizes and input decoded needs "
                    "one: give input latents, or export pictures of one size"
                )
            blocks = map(self._block, range(len(self._entries)))
            sizes = {(h, w) for block in blocks for h, w in np.unique(block.sizes, axis=0).tolist()}
        least = min((min(size) for size in sizes), default=self.stride)
        if self.crop is None:
            if len(sizes) > 1:
                raise ValueError(
                    f"'{self.root}' has pictures of {len(sizes)} sizes: give --data.crop {least}"
                )
            return
        if self.crop_latents and self.crop % self.stride:
            near = max(self.stride, round(self.crop / self.stride) * self.stride)
            raise ValueError(
                f"expected --data.crop to be a multiple of the codec's stride {self.stride}, "
                f"got {self.crop}: give --data.crop {min(near, least)}"
            )
        if sizes and self.crop > least:
            raise ValueError(
                f"--data.crop {self.crop} is larger than pictures of '{self.root}' "
                f"(shortest side {least}): give --data.crop {least}"
            )

    def _check_files(self) -> None:
        """Refuse tars that are missing or not as long as the index says."""
        for shard in self.shards:
            names = (f"{shard.name}.tar", targets_name(shard.name))
            for name, expected in zip(names, shard.sizes, strict=True):
                path = self.root / name
                size = path.stat().st_size if path.is_file() else None
                if size != expected:
                    raise ValueError(
                        f"damaged {path}: expected {expected} bytes, got {size or 'no file'}; "
                        "copy the set or export it again"
                    )

    def _place(self, index: int) -> tuple[int, int]:
        """Return block number and position in the block of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = int(np.searchsorted(self._ends, index, side="right"))
        return block, index - int(self._ends[block]) + self._entries[block][1].samples

    def _block(self, number: int) -> Block:
        if number not in self._blocks:
            shard, entry = self._entries[number]
            path = self.root / f"{shard.name}.tar"
            data = self._map(path)[entry.offset : entry.offset + entry.length]
            block = Block(data, f"at byte {entry.offset} of {path}")
            shapes = -(-block.sizes.astype(np.int64) // self.stride)
            if len(block) != entry.samples or (shapes != entry[-2:]).any():
                raise ValueError(f"{block.name} does not fit its index; export the set again")
            self._blocks[number] = block
        return self._blocks[number]

    def _map(self, path: Path) -> memoryview:
        if path not in self._maps:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[path] = memoryview(mapped)
        return self._maps[path]

    def _targets(self) -> Iterator[tuple[int, str]]:
        """Yield label and key of one sample after the other."""
        for shard in self.shards:
            path = self.root / targets_name(shard.name)
            for (offset, length), block in zip(shard.targets, shard.blocks, strict=True):
                data = bytes(self._map(path)[offset : offset + length])
                try:
                    yield from read_targets(data, block.samples, len(self.classes))
                except ValueError as error:
                    raise ValueError(f"damaged {path}: {error}; export the set again") from error

    def __getstate__(self) -> dict[str, Any]:
        """Memory maps stay behind when a worker process is started."""
        return {**self.__dict__, "_maps": {}, "_blocks": {}}


def targets_name(name: str) -> str:
    """Return the file name of a shard's targets."""
    return f"{name}.targets.tar"


def read_targets(data: bytes, count: int, num_classes: int) -> list[tuple[int, str]]:
    """Return label and key of every sample of one block.

    Args:
        data: a member of a targets' tar.
        count: samples in the block.
        num_classes: 0 where samples have no labels, which are then -1.

    Raises:
        ValueError: if they are damaged or too large.
    """
    known = range(num_classes) if num_classes else (-1,)
    try:
        unpacker = bz2.BZ2Decompressor()
        rows = json.loads(unpacker.decompress(data, count * MAX_TARGET))["samples"]
        if not unpacker.eof or len(rows) != count:
            raise ValueError(f"expected {count} samples")
        targets = [(int(label), str(key)) for label, key in rows]
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(reason(error)) from error
    if strange := {label for label, _ in targets}.difference(known):
        raise ValueError(f"no class has number {strange.pop()}")
    return targets


def _cut(planes: dict[str, Tensor], box: tuple[int, int, int, int]) -> dict[str, Tensor]:
    top, left, height, width = box
    return {
        name: plane[:, top : top + height, left : left + width] for name, plane in planes.items()
    }
