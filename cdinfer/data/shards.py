"""Sets of latents: what ``cdinfer export`` writes and training reads.

    DST/
        index.json                 what the set is; blocks, not samples
        codec/                     the codec that reads and wrote it
        train-00000.tar            members KEY.cdb, blocks of many bitstreams (``blocks.py``)
        train-00000.targets.tar    members KEY.json.gz: {"keys": [...], "labels": [...]}

Both tars are plain webdataset shards. Targets stand apart so that relabelling rewrites no
bitstream. Reading is map style: tars are memory-mapped, a batch is one entropy-decoding call.
"""

import gzip
import json
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cdinfer.codecs.zoo import read_codec
from cdinfer.data.blocks import Block
from cdinfer.data.draws import Draw, crop_offset, split_draw
from cdinfer.data.layout import INDEX

FORMAT = 1
MAX_INDEX = 2**30
MAX_TARGETS = 2**28


class BlockEntry(NamedTuple):
    """Where a block lies in its tar: ``offset`` and ``length`` in bytes; the latent size."""

    offset: int
    length: int
    count: int
    height: int
    width: int


class ShardEntry(NamedTuple):
    """A pair of tars, named below the set's folder."""

    name: str
    blocks: list[BlockEntry]
    targets: list[tuple[int, int]]


class Split(NamedTuple):
    """All shards of a split and how many samples they hold."""

    count: int
    shards: list[ShardEntry]


class Index(NamedTuple):
    """What a reader needs of ``index.json``."""

    bpp: float
    stream: int
    stride: int
    classes: list[str]
    preprocessing: dict[str, int | None]
    splits: dict[str, Split]


def read_index(root: Path) -> Index:
    """Read and check ``index.json``.

    Raises:
        ValueError: if it is missing, damaged, not finished or of the one-sample layout.
    """
    path = root / INDEX
    try:
        if path.stat().st_size > MAX_INDEX:
            raise ValueError(f"larger than {MAX_INDEX} bytes")
        raw = json.loads(path.read_bytes())
        if raw["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {raw['format']!r}")
        splits = {name: _read_split(entries) for name, entries in raw["splits"].items()}
        index = Index(
            float(raw["bpp"]), int(raw["stream"], 16), int(raw["stride"]),
            [str(name) for name in raw["classes"]], dict(raw["preprocessing"]), splits,
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"damaged {path}: {error!r}; export the set again") from error
    if not raw["complete"]:
        raise ValueError(f"the export of {root} was interrupted: run the same export again")
    if raw["block"] == 1:
        raise ValueError(
            f"{root} was exported with --block 1, for other readers: export it without that"
        )
    return index


def _read_split(entries: list[dict[str, Any]]) -> Split:
    shards = []
    for entry in entries:
        name = str(entry["name"])
        if Path(name).name != name:
            raise ValueError(f"the shard name {name!r} is not a file name")
        blocks = [BlockEntry(*map(int, block)) for block in entry["blocks"]]
        if any(min(block) < 0 or block.count < 1 for block in blocks):
            raise ValueError(f"shard {name} lists impossible blocks")
        shards.append(ShardEntry(name, blocks, [(int(a), int(b)) for a, b in entry["targets"]]))
    return Split(sum(block.count for shard in shards for block in shard.blocks), shards)


class ShardDataset(Dataset[dict[str, Any]]):
    """The samples of one split; made for batches, see :meth:`__getitems__`.

    Args:
        root: folder of the set.
        split: ``train``, ``val`` or ``test``.
        crop: side of the crop in pixels, a multiple of the stride; ``None`` takes all.
        crop_latents: crop the planes (networks on latents); otherwise planes stay whole and
            ``crop (B, 4)`` says what to cut after decoding.
        seed: of the random crops.
        check_crop: refuse at once a crop that not every sample can give.

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
        self.root, self.crop, self.crop_latents, self.seed = root, crop, crop_latents, seed
        self.stride, self.shards = index.stride, index.splits[split].shards
        self.codec = read_codec(root / "codec")
        if self.codec.stream != index.stream:
            raise ValueError(f"the codec in {root} is not the one of its index; export again")
        self._entries = [(shard, block) for shard in self.shards for block in shard.blocks]
        self._ends = np.cumsum([entry.count for _, entry in self._entries], dtype=np.int64)
        if check_crop:
            self._check_crop()
        self._maps: dict[str, memoryview] = {}
        self._blocks: dict[int, Block] = {}
        self._labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """Return a batch of one."""
        return self.__getitems__([draw])

    def __getitems__(self, draws: list[Draw] | list[int]) -> dict[str, Any]:
        """Return a batch: planes, label, size, index, and crop where decoding comes first."""
        picks = [split_draw(draw, self.seed) for draw in draws]
        places = [self._place(index) for index, _ in picks]
        files = [self._block(block)[item] for block, item in places]
        sizes = np.array([self._block(block).sizes[item] for block, item in places], np.int64)
        boxes = [self._box(size, rng) for size, (_, rng) in zip(sizes.tolist(), picks, strict=True)]
        planes: dict[str, list[Tensor]] = {}
        for name, plane in self._unpack(files, [block for block, _ in places]).items():
            cuts = zip(plane, boxes, strict=True)
            planes[name] = [self._cut(p, box) if self.crop_latents else p for p, box in cuts]
        indices = torch.tensor([index for index, _ in picks])
        batch: dict[str, Any] = {
            "planes": {name: torch.stack(plane) for name, plane in planes.items()},
            "label": torch.from_numpy(self.labels[indices.numpy()]),
            "size": torch.from_numpy(sizes),
            "index": indices,
        }
        if not self.crop_latents:
            batch["crop"] = torch.tensor(boxes)
        return batch

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every sample."""
        if self._labels is None:
            self._labels = np.array([v for t in self._targets() for v in t["labels"]], np.int64)
        return self._labels

    def keys(self) -> list[str]:
        """Return the path of every sample's picture below the exported folder."""
        return [str(key) for target in self._targets() for key in target["keys"]]

    def file(self, index: int) -> bytes:
        """Return one sample's complete ``.cdi`` file."""
        block, item = self._place(index)
        return self._block(block)[item]

    def _unpack(self, files: list[bytes], blocks: list[int]) -> dict[str, list[Tensor]]:
        """Entropy-decode ``files``, one call for each latent size among them."""
        shapes = [self._entries[block][1][-2:] for block in blocks]
        result: dict[str, list[Tensor]] = {n: [torch.empty(0)] * len(files) for n in ("y",)}
        for shape in dict.fromkeys(shapes):
            chosen = [i for i, other in enumerate(shapes) if other == shape]
            for name, plane in self.codec.unpack([files[i] for i in chosen]).items():
                for i, item in zip(chosen, plane, strict=True):
                    result[name][i] = item
        return result

    def _box(
        self, size: list[int], rng: np.random.Generator | None
    ) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a crop: in latents, or in pixels to decode."""
        unit = self.stride if self.crop_latents else 1
        height, width = (-(-side // unit) for side in size)
        if self.crop is None:
            return 0, 0, height, width
        side = self.crop // unit
        return *crop_offset((height, width), (side, side), rng), side, side

    @staticmethod
    def _cut(plane: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        top, left, height, width = box
        return plane[:, top : top + height, left : left + width]

    def _check_crop(self) -> None:
        shapes = {entry[-2:] for _, entry in self._entries}
        if len(shapes) > 1 and (self.crop is None or not self.crop_latents):
            raise ValueError(
                f"{self.root} has pictures of {len(shapes)} sizes: give --data.crop for input "
                "latents; input decoded needs pictures of one size"
            )
        if self.crop is None:
            return
        if self.crop % self.stride:
            near = max(self.stride, round(self.crop / self.stride) * self.stride)
            raise ValueError(
                f"expected --data.crop to be a multiple of the codec's stride {self.stride}, "
                f"got {self.crop}: give --data.crop {near}"
            )
        least = min((min(shape) for shape in shapes), default=0) * self.stride
        if shapes and self.crop > least:
            raise ValueError(
                f"--data.crop {self.crop} is larger than pictures of {self.root} "
                f"(shortest side {least}): give --data.crop {least}"
            )

    def _place(self, index: int) -> tuple[int, int]:
        """Return block number and position in the block of a sample."""
        block = int(np.searchsorted(self._ends, index, side="right"))
        return block, index - int(self._ends[block]) + self._entries[block][1].count

    def _block(self, number: int) -> Block:
        if number not in self._blocks:
            shard, entry = self._entries[number]
            data = self._map(f"{shard.name}.tar")[entry.offset : entry.offset + entry.length]
            block = Block(data, f"at byte {entry.offset} of {self.root / shard.name}.tar")
            if len(block) != entry.count:
                raise ValueError(f"{self.root / shard.name}.tar does not fit its index")
            self._blocks[number] = block
        return self._blocks[number]

    def _map(self, name: str) -> memoryview:
        if name not in self._maps:
            with (self.root / name).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[name] = memoryview(mapped)
        return self._maps[name]

    def _targets(self) -> list[dict[str, Any]]:
        parts = []
        for shard in self.shards:
            view = self._map(f"{shard.name}.targets.tar")
            for (offset, length), block in zip(shard.targets, shard.blocks, strict=True):
                parts.append(read_targets(bytes(view[offset : offset + length]), block.count))
        return parts

    def __getstate__(self) -> dict[str, Any]:
        """Memory maps stay behind when a worker process is started."""
        return {**self.__dict__, "_maps": {}, "_blocks": {}}


def read_targets(data: bytes, count: int) -> dict[str, Any]:
    """Return the targets of one block.

    Raises:
        ValueError: if they are damaged or too large.
    """
    import io

    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = file.read(MAX_TARGETS)
        targets = json.loads(text)
        if len(targets["labels"]) != count or len(targets["keys"]) != count:
            raise ValueError(f"expected {count} labels and keys")
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"damaged targets: {error}; export the set again") from error
    return dict(targets)
