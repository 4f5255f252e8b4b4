import multiprocessing
import shutil
from pathlib import Path

import pytest

from cdinfer.data.export import export
from cdinfer.data.index import read_index
from cdinfer.data.layout import find_pictures
from tests.data.test_export import PLAN, digests, spoil


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_change_no_byte(
    mixed_scenes: Path, tiny_codec: Path, tmp_path: Path, workers: int
) -> None:
    pictures = find_pictures(mixed_scenes)
    one = export(pictures, tmp_path / "a", tiny_codec, PLAN)
    progress: dict[str, int] = {}

    def note(split: str, count: int) -> None:
        progress[split] = progress.get(split, 0) + count

    many = export(pictures, tmp_path / "b", tiny_codec, PLAN, progress=note, workers=workers)
    assert many == one
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert progress == {split: len(items) for split, items in pictures.splits.items() if items}
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_unreadable_picture_in_a_worker_stops_and_is_named(
    mixed_scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(Path(shutil.copytree(mixed_scenes, tmp_path / "scenes")))
    (bad,) = spoil(pictures, 7)
    message = (
        rf"^{pictures.root}/{bad}: cannot be read[^\n]*; --on-error skip leaves such pictures out$"
    )
    with pytest.raises(ValueError, match=message):
        export(pictures, tmp_path / "a", tiny_codec, PLAN, workers=2)
    assert not multiprocessing.active_children()
    with pytest.raises(ValueError, match="was interrupted"):
        read_index(tmp_path / "a")


def test_a_killed_worker_is_one_line_and_the_export_goes_on_later(
    mixed_scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    def kill(split: str, count: int) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    pictures = find_pictures(mixed_scenes)
    with pytest.raises(ValueError, match=r"^a worker process was killed by signal 9, .*--workers"):
        export(pictures, tmp_path / "a", tiny_codec, PLAN, progress=kill, workers=2)
    assert not multiprocessing.active_children()
    export(pictures, tmp_path / "a", tiny_codec, PLAN)
    export(pictures, tmp_path / "b", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
