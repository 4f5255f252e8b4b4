import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdinfer.bitstream.container import Header, pack
from cdinfer.data.blocks import Block
from cdinfer.data.layout import Item
from cdinfer.data.targets import read_targets
from cdinfer.data.writer import Encoded, cut_blocks, pack_shard, publish


def encoded(number: int, size: tuple[int, int] = (2, 3)) -> Encoded:
    """A file whose payload has as many bytes as its number."""
    header = Header("CAE_", 7, 8 * size[0], 8 * size[1])
    file = pack(header, np.zeros(1, np.uint8), bytes([number]) * number)
    return Encoded(Item(f"ä/{number}.png", number % 3), file, size)


def write_shard(folder: Path, *arguments: Any) -> dict[str, Any]:
    made = pack_shard(*arguments)
    publish(folder, made)
    return made.entry


def test_blocks_have_one_latent_size_in_first_seen_order() -> None:
    pictures = [encoded(i, (2, 3) if i in (0, 3, 4, 6) else (3, 2)) for i in range(8)]
    groups = cut_blocks(pictures, 3)
    numbers = [[pictures.index(e) for e in group] for group in groups]
    assert numbers == [[0, 3, 4], [6], [1, 2, 5], [7]]


def test_an_entry_says_where_blocks_and_targets_lie(tmp_path: Path) -> None:
    pictures = [encoded(i) for i in range(1, 8)]
    entry = write_shard(tmp_path, "val-00002", pictures, 3, True)
    tar = (tmp_path / "val-00002.tar").read_bytes()
    targets = (tmp_path / "val-00002.targets.tar").read_bytes()
    files, items = [], []
    for (offset, length, count, height, width), (start, size) in zip(
        entry["blocks"], entry["targets"], strict=True
    ):
        assert (height, width) == (2, 3)
        block = Block(memoryview(tar)[offset : offset + length], "test")
        assert len(block) == count
        files += [block[i] for i in range(count)]
        items += read_targets(targets[start : start + size], count, 3)
    assert files == [e.file for e in pictures]
    assert items == [(e.item.label, e.item.key) for e in pictures]
    assert entry["count"] == 7
    assert entry["payload"] == 1 + 2 + 3 + 4 + 5 + 6 + 7
    for name, data in (("", tar), ("targets_", targets)):
        assert entry[f"{name}bytes"] == len(data)
        assert entry[f"{name}sha256"] == hashlib.sha256(data).hexdigest()


def test_the_same_pictures_make_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder, "train-00000", [encoded(i) for i in range(9)], 4, True)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["train-00000.tar", "train-00000.targets.tar"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("count", [1, 5])
def test_tars_end_with_their_last_member(tmp_path: Path, count: int) -> None:
    write_shard(tmp_path, "train-00000", [encoded(i) for i in range(count)], 2, True)
    for path in tmp_path.iterdir():
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert len(members) == -(-count // 2)
        end = members[-1].offset_data + members[-1].size
        assert 0 <= path.stat().st_size - end < 512
        assert path.stat().st_size % 512 == 0


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    entry = write_shard(tmp_path, "train-00000", [], 512, True)
    assert (entry["count"], entry["blocks"], entry["targets"]) == (0, [], [])
    for path in tmp_path.iterdir():
        with tarfile.open(path) as tar:
            assert tar.getmembers() == []


def test_the_plain_layout_has_a_key_for_every_sample(tmp_path: Path) -> None:
    pictures = [encoded(i) for i in range(3)]
    entry = write_shard(tmp_path, "train-00000", pictures, 1, True)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert list(found)[:3] == [f"train-00000-000000.{end}" for end in ("cdi", "cls", "json")]
    for i, picture in enumerate(pictures):
        assert found[f"train-00000-{i:06d}.cdi"] == picture.file
        assert found[f"train-00000-{i:06d}.cls"] == str(i).encode()
    assert entry["count"] == 3
    assert not (tmp_path / "train-00000.targets.tar").exists()


def test_unlabelled_samples_get_no_class(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-00000", [encoded(0)], 1, False)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        assert [Path(name).suffix for name in tar.getnames()] == [".cdi", ".json"]
