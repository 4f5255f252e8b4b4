"""Sets of shards: tars of blocks, tars of targets, ``index.json``."""

import bz2
import json
from pathlib import Path
from random import Random
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from cdinfer.data.blocks import Block
from cdinfer.data.index import read_index
from cdinfer.data.shards import ShardDataset
from cdinfer.data.stream import StreamDataset
from cdinfer.data.targets import read_targets
from tools.fuzz.kinds import Case, FolderKind, Wrong
from tools.fuzz.mutate import spoil, spoil_json, spoil_number

#: Numbers at the start of a block: count, least, bits, sized, height and width, first checksum.
BLOCK_NUMBERS = ((12, 4), (16, 4), (20, 1), (21, 1), (22, 4), (26, 4), (30, 4))

Sample = tuple[bytes, bytes, int, str]


def read_split(root: Path, split: str) -> list[Sample]:
    """Return planes, size, label and key of every sample of a split."""
    data = ShardDataset(root, split, None, check_crop=False)
    samples = []
    for number, key in enumerate(data.keys()):
        one = data[number]
        planes = b"".join(plane.numpy().tobytes() for plane in one["planes"].values())
        samples.append((planes, one["size"].numpy().tobytes(), int(one["label"]), key))
    return samples


def stream_split(root: Path, split: str) -> list[Sample]:
    """Return what streaming reads, as `read_split` does but for keys; one latent of each plane."""
    samples = []
    for one in StreamDataset(f"file:{root}", split, 8, batch_size=1, delays=()):
        planes = b"".join(plane.numpy().tobytes() for plane in one["planes"].values())
        samples.append((planes, one["size"].numpy().tobytes(), int(one["label"]), ""))
    return samples


class Shards(FolderKind):
    """Tars of a set: mapped by `ShardDataset`, streamed, and taken apart by stock webdataset."""

    name = "shards"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tars = [name for name in self.whole if name.endswith(".tar")]
        self.index = json.loads(self.whole["index.json"])
        self.truth = {split: read_split(folder, split) for split in self.index["splits"]}
        self.streamed = {split: stream_split(folder, split) for split in self.truth}
        self.codec = ShardDataset(folder, "train", None, check_crop=False).codec

    def whole_case(self) -> Case:
        return Case(
            {self.tars[0]: self.whole[self.tars[0]]},
            "whole",
            (self.tars[0], self.tars[0].partition("-")[0], True),
        )

    def make(self, rng: Random) -> Case:
        name = rng.choice(self.tars)
        split = name.partition("-")[0]
        data, other = self.whole[name], self.whole[rng.choice(self.tars)]
        how = rng.random()
        if how < 0.3:
            files, about = {name: spoil(data, rng, other)}, "blind"
        elif how < 0.45:
            about = "blind, its length in the index"
            files = self._indexed(name, spoil(data, rng, other), {})
        else:
            files, about = self._inside(name, rng)
        labels = "targets" not in name or about == "blind"
        return Case(files, f"{name}: {about}", (name, split, labels))

    def _inside(self, name: str, rng: Random) -> tuple[dict[str, bytes], str]:
        """Spoil one member, and say in the index how long it is now."""
        targets = "targets" in name
        key = "targets" if targets else "blocks"
        members = self._entry(self.index, name)[key]
        number = rng.randrange(len(members))
        begin, length = members[number][:2]
        data = self.whole[name]
        content = data[begin : begin + length]
        if targets:
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
        moved = [list(m) for m in members]
        moved[number][1] += shift
        for later in moved[number + 1 :]:
            later[0] += shift
        whole = data[:begin] + spoilt + data[begin + length :]
        return self._indexed(name, whole, {key: moved}), about

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
        name, split, labels = case.truth
        refused: list[ValueError] = []
        used = slice(None) if labels else slice(2)  # what says nothing but other labels is right
        for reader, truth in ((read_split, self.truth), (stream_split, self.streamed)):
            try:
                found = reader(self.folder, split)
            except ValueError as error:
                refused.append(error)
                continue
            if [sample[used] for sample in found] != [sample[used] for sample in truth[split]]:
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
                    read_targets(sample["json.bz2"], 3, 2)
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
