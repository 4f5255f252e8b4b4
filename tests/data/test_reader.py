import bz2
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cdinfer.data.shards import ShardDataset


def read_everything(root: Path) -> None:
    for split in ("val", "test", "train"):
        data = ShardDataset(root, split, None, whole=True)
        for i in range(len(data)):
            data[i]


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.targets.tar"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer"])
def test_a_tar_of_another_length_is_named(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        parts = {"empty": b"", "truncated": data[:-512], "longer": data + bytes(512)}
        path.write_bytes(parts[damage])
    size = path.stat().st_size if path.exists() else "no file"
    fault = rf"^damaged {copy}/{name}: expected {len(data)} bytes, got {size}; [^\n]*again$"
    with pytest.raises(ValueError, match=fault):
        ShardDataset(copy, "train", None, whole=True)


def test_a_damaged_block_is_named_when_it_is_read(copy: Path) -> None:
    entry = json.loads((copy / "index.json").read_text())["splits"]["val"][0]
    path, (offset, length, *_) = copy / "val-00000.tar", entry["blocks"][0]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*range(40), *rng.integers(0, length, 60).tolist()]:
        damaged = bytearray(whole)
        damaged[offset + position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        where = rf"at byte {offset} of [^\n]*val-00000\.tar"
        with pytest.raises(ValueError, match=rf"^[^\n]*{where}[^\n]*$"):
            read_everything(copy)


def test_damaged_targets_are_named_or_mean_the_same(copy: Path) -> None:
    entry = json.loads((copy / "index.json").read_text())["splits"]["val"][0]
    path, (offset, length) = copy / "val-00000.targets.tar", entry["targets"][0]
    whole, labels = path.read_bytes(), ShardDataset(copy, "val", 16).labels.tolist()
    message = re.compile(r"damaged [^\n]*val-00000\.targets\.tar, block 0: [^\n]+ again")
    noticed = 0
    for position in range(length):
        damaged = bytearray(whole)
        damaged[offset + position] ^= 16
        path.write_bytes(damaged)
        try:  # a few bits of bzip2 have no meaning
            assert ShardDataset(copy, "val", 16).labels.tolist() == labels
        except ValueError as error:
            noticed += message.fullmatch(str(error)) is not None
    assert length - noticed <= 3


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"samples": [[0, "a"], [1, "a"], [2, "a"]]}, "no class has number 2"),
        ({"samples": [[0, "a"], [1, "a"], [-1, "a"]]}, "no class has number -1"),
        ({"samples": [[0, "a"], [1, "a"], ["x", "a"]]}, "invalid literal"),
        ({"samples": [[0, "a"], [1, "a"], [[0], "a"]]}, "list"),
        ({"samples": [[0, "a"], [1, "a"], [1e999, "a"]]}, "infinity"),
        ({"samples": [[0, "a"], [1, "a"], [0]]}, "unpack"),
        ({"samples": [[0, "a"], [1, "a"]]}, "expected 3 samples"),
        ({"samples": 3}, "len"),
        ({"keys": ["a"] * 3}, "nothing called 'samples'"),
        ([], "list"),
        ({"samples": [[0, "a" * 100_000]] * 3}, "too large|Unterminated"),
    ],
)
def test_hostile_targets_are_one_line(copy: Path, targets: object, message: str) -> None:
    index = json.loads((copy / "index.json").read_text())
    entry = index["splits"]["val"][0]
    assert [block[2] for block in entry["blocks"]] == [3, 1, 2]
    path = copy / "val-00000.targets.tar"
    packed = bz2.compress(json.dumps(targets).encode())
    entry["targets"][0] = [path.stat().st_size, len(packed)]
    entry["targets_bytes"] += len(packed)
    path.write_bytes(path.read_bytes() + packed)
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError,
        match=rf"^damaged [^\n]*val-00000\.targets\.tar, block 0: [^\n]*({message})[^\n]*$",
    ):
        _ = ShardDataset(copy, "val", None, whole=True).labels
