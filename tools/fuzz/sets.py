"""Sets of shards: tars of blocks, tars of targets, ``index.json``."""

import bz2
import io
import json
import struct
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from cdinfer.data.blocks import Block
from cdinfer.data.index import read_index
from cdinfer.data.mask_blocks import MaskBlock, join_masks, to_png
from cdinfer.data.shards import ShardDataset
from cdinfer.data.stream import StreamDataset
from cdinfer.data.targets import read_targets
from tools.fuzz.kinds import Case, FolderKind, Wrong
from tools.fuzz.mutate import spoil, spoil_json, spoil_number

#: Numbers at the start of a block: count, least, bits, sized, height and width, first checksum.
BLOCK_NUMBERS = ((12, 4), (16, 4), (20, 1), (21, 1), (22, 4), (26, 4), (30, 4))

#: Places of what makes a sample; what was changed by the rules may be other.
PLANES, SIZE, LABEL, KEY, MASK = range(5)

Sample = tuple[bytes, bytes, int, str, bytes]


def read_split(root: Path, split: str) -> list[Sample]:
    """Return planes, size, label, key and mask of every sample of a split."""
    data = ShardDataset(root, split, None, whole=True)
    samples = []
    for number, key in enumerate(data.keys()):
        one = data[number]
        planes = b"".join(plane.numpy().tobytes() for plane in one["planes"].values())
        samples.append((planes, one["size"].numpy().tobytes(), int(one["label"]), key, _mask(one)))
    return samples


def stream_split(root: Path, split: str) -> list[Sample]:
    """Return what streaming reads, as `read_split` does but for keys; one latent of each plane."""
    samples = []
    for one in StreamDataset(f"file:{root}", split, 8, batch_size=1, delays=()):
        planes = b"".join(plane.numpy().tobytes() for plane in one["planes"].values())
        samples.append((planes, one["size"].numpy().tobytes(), int(one["label"]), "", _mask(one)))
    return samples


def _mask(one: dict[str, Any]) -> bytes:
    return one["mask"].numpy().tobytes() if "mask" in one else b""


def _parts(samples: list[Sample], places: Sequence[int]) -> list[list[Any]]:
    return [[sample[place] for place in places] for sample in samples]


def spoil_masks(content: bytes, count: int, rng: Random) -> bytes:
    """Return the masks of a block after a change of one of them, or of their lengths."""
    if rng.random() < 0.2:
        return spoil_number(content, 4 * rng.randrange(count), 4, rng)
    block = MaskBlock(memoryview(content), count)
    masks = [bytes(block[i]) for i in range(count)]
    number = rng.randrange(count)
    width, height = struct.unpack_from(">II", masks[number], 16)
    size = rng.choice(((height, width), (width, height), (1, 1), (height, 4 * width), (3000, 3000)))
    pixels = np.full(size, rng.choice((0, 1, 2, 3, 255)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(rng.choice(("L", "P", "1", "RGB", "I;16"))).save(file, "PNG")
    others = (
        to_png(pixels),
        file.getvalue(),
        spoil(masks[number], rng, masks[number - 1]),
        spoil_number(masks[number], rng.choice((8, 16, 20, 33)), 4, rng),
    )
    masks[number] = rng.choice(others)
    return join_masks(masks)


class Shards(FolderKind):
    """Tars of a set: mapped by `ShardDataset`, streamed, and taken apart by stock webdataset."""

    name = "shards"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tars = [name for name in self.whole if name.endswith(".tar")]
        self.index = json.loads(self.whole["index.json"])
        self.num_labels = read_index(folder).num_labels
        self.truth = {split: read_split(folder, split) for split in self.index["splits"]}
        self.streamed = {split: stream_split(folder, split) for split in self.truth}
        self.codec = ShardDataset(folder, "train", None, whole=True).codec

    def whole_case(self) -> Case:
        name = self.tars[0]
        return Case({name: self.whole[name]}, "whole", (name, name.partition("-")[0], range(5)))

    def make(self, rng: Random) -> Case:
        name = rng.choice(self.tars)
        split = name.partition("-")[0]
        data, other = self.whole[name], self.whole[rng.choice(self.tars)]
        how, same = rng.random(), range(5)
        if how < 0.3:
            files, about = {name: spoil(data, rng, other)}, "blind"
        elif how < 0.45:
            about = "blind, its length in the index"
            files = self._indexed(name, spoil(data, rng, other), {})
        else:
            key = "blocks"
            if "targets" in name:
                key = rng.choice(("targets", "masks" if "masks" in self.index else "targets"))
                same = [PLANES, SIZE, MASK] if key == "targets" else [PLANES, SIZE, LABEL, KEY]
            files, about = self._inside(name, key, rng)
        return Case(files, f"{name}: {about}", (name, split, same))

    def _inside(self, name: str, key: str, rng: Random) -> tuple[dict[str, bytes], str]:
        """Spoil one member, and say in the index how long it is now."""
        entry = self._entry(self.index, name)
        number = rng.randrange(len(entry[key]))
        begin, length = entry[key][number][:2]
        data = self.whole[name]
        content = data[begin : begin + length]
        if key == "masks":
            spoilt = spoil_masks(content, entry["blocks"][number][2], rng)
            about = f"masks of block {number}"
        elif key == "targets":
            text = spoil_json(bz2.decompress(content).decode(), rng)
            spoilt = rng.choice((text.encode("utf-8"), spoil(text.encode("utf-8"), rng)))
            bomb = bytes(rng.choice((0, 0, 0, 2**20, 2**22)))
            spoilt, about = bz2.compress(spoilt + bomb), f"rows of block {number}"
        elif rng.random() < 0.5:
            spoilt = spoil_number(content, *rng.choice(BLOCK_NUMBERS), rng)
            about = f"a number of block {number}"
        else:
            spoilt, about = spoil(content, rng, data), f"block {number}, blind"
        shift = len(spoilt) - length
        lists = [one for one in ("targets", "masks") if key != "blocks" and one in entry] or [key]
        moved = {one: [list(member) for member in entry[one]] for one in lists}
        moved[key][number][1] += shift
        for later in chain(*moved.values()):
            later[0] += shift * (later[0] > begin)
        whole = data[:begin] + spoilt + data[begin + length :]
        return self._indexed(name, whole, moved), about

    def _indexed(self, name: str, data: bytes, changes: dict[str, Any]) -> dict[str, bytes]:
        """Return a tar and an index that knows its length."""
        index = json.loads(self.whole["index.json"])
        entry = self._entry(index, name)
        entry |= {("targets_bytes" if "targets" in name else "bytes"): len(data), **changes}
        return {name: data, "index.json": json.dumps(index).encode()}

    @staticmethod
    def _entry(index: dict[str, Any], name: str) -> dict[str, Any]:
        split, own = name.partition("-")[0], name.partition(".")[0]
        entry: dict[str, Any]
        (entry,) = (entry for entry in index["splits"][split] if entry["name"] == own)
        return entry

    def read(self, case: Case) -> None:
        name, split, same = case.truth  # what says nothing but other labels, say, is right
        refused: list[ValueError] = []
        for reader, truth in ((read_split, self.truth), (stream_split, self.streamed)):
            try:
                found = reader(self.folder, split)
            except ValueError as error:
                refused.append(error)
                continue
            if _parts(found, same) != _parts(truth[split], same):
                raise Wrong(f"other samples than were written, by {reader.__name__}")
        try:
            self._stock(name)
        except ValueError as error:
            refused.append(error)
        if refused:
            raise refused[0]

    def _stock(self, name: str) -> None:
        """Read a tar as other people do; what webdataset itself refuses is not ours to name."""
        planes = {sample[0] for samples in self.truth.values() for sample in samples}
        try:
            with (self.folder / name).open("rb") as tar:  # as WebDataset does, which leaves it open
                source = {"url": name, "stream": tar}
                samples = list(group_by_keys(tar_file_expander([source])))
        except Exception as error:
            line = " ".join(str(error).split())
            raise ValueError(f"{self.folder}: webdataset says: {line}") from error
        for sample in samples:
            if "cdb" in sample:
                block = Block(memoryview(sample["cdb"]), f"{self.folder}/{name}")
                for number in range(len(block)):
                    try:
                        unpacked = self.codec.unpack([block[number]])
                    except ValueError as error:
                        raise ValueError(f"{block.name}: {error}") from error
                    if unpacked["y"].numpy().tobytes() not in planes:
                        raise Wrong(
                            f"symbols that were never written, in block {sample['__key__']}"
                        )
            elif "json.bz2" in sample:
                try:
                    read_targets(sample["json.bz2"], 3, self.num_labels)
                except ValueError as error:
                    raise ValueError(f"{self.folder}/{name}: {error}") from error


class Indices(FolderKind):
    """``index.json``: types, numbers, depth, names that lead elsewhere; and blind changes."""

    name, first = "index", "index.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        splits = json.loads(self.whole["index.json"])["splits"]
        self.planes = {sample[0] for split in splits for sample in read_split(folder, split)}

    def make(self, rng: Random) -> Case:
        text = self.whole["index.json"]
        if rng.random() < 0.2:
            return Case({"index.json": spoil(text, rng)}, "blind")
        spoilt = spoil_json(text.decode(), rng).encode("utf-8")
        return Case({"index.json": spoilt}, "values")

    def read(self, case: Case) -> None:
        index = read_index(self.folder)
        for split in index.splits:
            for planes, *_ in read_split(self.folder, split):
                if planes not in self.planes:
                    raise Wrong("symbols that were never written")
