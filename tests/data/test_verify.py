import json
import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdinfer.data.index import MAX_INDEX, read_index
from cdinfer.data.reader import Reader
from cdinfer.data.verify import Report, verify


def change(root: Path, name: str, position: int, bit: int = 0) -> None:
    path = root / name
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def entries(root: Path) -> dict[str, Any]:
    raw = json.loads((root / "index.json").read_text())
    return {entry["name"]: entry for split in raw["splits"].values() for entry in split}


def texts(report: Report) -> list[str]:
    return [fault.fault for fault in report.faults]


def test_a_whole_set_has_no_faults_and_all_of_it_is_read(mixed: Path) -> None:
    seen: list[int] = []
    assert verify(mixed, progress=seen.append) == Report(5, 14, 32, [], [])
    assert sum(seen) == 32


def test_a_damaged_bitstream_is_named_by_shard_block_and_key(copy: Path) -> None:
    reader = Reader(copy, read_index(copy), "train")
    number = 4
    shard, place, entry = reader.entries[number]
    key = reader.targets(number)[-1][1]
    change(copy, shard.tars[0], entry.offset + entry.length - 5)
    sums, damaged = verify(copy).faults
    assert sums == (shard.name, None, None, f"{shard.tars[0]}: its sha256 is not that of the index")
    assert damaged[:3] == (shard.name, place, key)
    assert damaged.fault.startswith("damaged")


def test_every_changed_bit_of_a_tar_is_noticed(copy: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("val-00000.tar", "val-00000.targets.tar"):
        size = (copy / name).stat().st_size
        for position in [0, 511, size - 1, *rng.integers(0, size, 6).tolist()]:
            change(copy, name, position)
            faults = verify(copy).faults
            assert f"{name}: its sha256 is not that of the index" in [f.fault for f in faults]
            assert {fault.shard for fault in faults} == {"val-00000"}
            change(copy, name, position)
    assert verify(copy).faults == []


def test_all_faults_are_named_and_the_rest_is_still_read(copy: Path) -> None:
    (copy / "train-00000.tar").unlink()
    (copy / "val-00000.targets.tar").write_bytes(b"")
    change(copy, "test-00000.tar", entries(copy)["test-00000"]["blocks"][0][0])
    report = verify(copy)
    assert [fault.shard for fault in report.faults] == [
        "train-00000", "val-00000", "test-00000", "test-00000",
    ]  # fmt: skip
    assert re.fullmatch(r"train-00000\.tar: expected \d+ bytes, got no file", texts(report)[0])
    assert re.fullmatch(r"val-00000\.targets\.tar: expected \d+ bytes, got 0", texts(report)[1])
    assert report.faults[3].block == 0
    assert "damaged block 0 at byte 512" in texts(report)[3]


def test_counts_keys_that_come_twice_and_strange_bytes_are_named(copy: Path) -> None:
    raw = json.loads((copy / "index.json").read_text())
    for name in ("val-00000.tar", "val-00000.targets.tar"):
        shutil.copy(copy / name, copy / name.replace("00000", "00001"))
    entry = raw["splits"]["val"][0]
    raw["splits"]["test"].append(entry | {"name": "val-00001"})
    (copy / "test-00000.tar").write_bytes((copy / "test-00000.tar").read_bytes() + b"x" * 512)
    raw["splits"]["test"][0]["bytes"] += 512
    raw["splits"]["train"][0]["count"] += 1
    (copy / "index.json").write_text(json.dumps(raw))
    report = verify(copy)
    assert texts(report)[0] == "expected 8 samples, its blocks have another number"
    assert "test-00000.tar: has bytes that belong to no block" in texts(report)
    twice = [fault for fault in report.faults if "twice: in val-00000 as well" in fault.fault]
    assert len(twice) == 6
    assert {fault.shard for fault in twice} == {"val-00001"}


@pytest.mark.parametrize("part", ["index.json", "codec/tables.safetensors", "codec/codec.json"])
def test_a_damaged_index_or_codec_is_a_fault(copy: Path, part: str) -> None:
    path = copy / part
    path.write_bytes(path.read_bytes()[:-40])
    (fault,) = verify(copy).faults
    assert fault[:3] == (None, None, None)
    assert "damaged" in fault.fault


def test_a_huge_index_is_a_fault_and_is_not_read(copy: Path) -> None:
    with (copy / "index.json").open("r+b") as file:
        file.truncate(MAX_INDEX + 1)
    tracemalloc.start()
    try:
        (fault,) = verify(copy).faults
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "larger than" in fault.fault


def test_a_codec_of_another_set_is_a_fault(copy: Path, other_codec: Path) -> None:
    shutil.rmtree(copy / "codec")
    shutil.copytree(other_codec, copy / "codec")
    (fault,) = verify(copy).faults
    assert fault.fault == (
        f"the codec in '{copy}' is not the one of its index; export the set again"
    )


def test_a_folder_without_a_set_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shards in"):
        verify(tmp_path)


def test_what_must_be_absent_is_looked_for_everywhere(copy: Path) -> None:
    reader = Reader(copy, read_index(copy), "train")
    key = reader.targets(0)[0][1]
    assert verify(copy, ["nowhere.png"]).faults == []
    (fault,) = verify(copy, ["nowhere.png", key]).faults
    assert fault[:3] == ("train-00000", None, key)
    assert "still in the set" in fault.fault
    (copy / "train-00000-1.tar").write_bytes(b"left by a killed change")
    report = verify(copy)
    assert (report.leftovers, report.faults) == (["train-00000-1.tar"], [])
    (fault,) = verify(copy, ["nowhere.png"]).faults
    assert fault.fault.startswith("train-00000-1.tar was left by an interrupted change")


def test_a_set_that_changes_meanwhile_is_not_judged(copy: Path) -> None:
    def touch(count: int) -> None:
        path = copy / "index.json"
        path.write_text(path.read_text() + "\n")

    with pytest.raises(ValueError, match="was changed while it was verified: verify it again"):
        verify(copy, progress=touch)
