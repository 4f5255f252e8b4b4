import os
import stat
from pathlib import Path

import pytest

from cdinfer.bitstream.atomic import write_atomically


def test_a_file_is_on_the_disk_before_its_name_and_that_before_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, fsync, replace = list[str](), os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("folder" if folder else "file")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "a", b"content")
    assert steps == ["file", "name", "folder"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"content"}


def test_what_cannot_be_written_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match=r"a'$"):
        write_atomically(tmp_path / "a", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
