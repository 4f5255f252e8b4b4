from pathlib import Path

import pytest

from cdinfer.studies.demo_steps import make_key, once


class Work:
    """Writes one file; fails the first ``failures`` times."""

    def __init__(self, folder: Path, failures: int = 0) -> None:
        self.folder, self.failures, self.calls = folder, failures, 0

    def __call__(self) -> None:
        self.calls += 1
        (self.folder / f"made-{self.calls}").touch()
        if self.calls <= self.failures:
            raise KeyboardInterrupt


def test_a_finished_step_is_kept(tmp_path: Path) -> None:
    work = Work(tmp_path / "step")
    first = once(tmp_path / "step", "key", work)
    second = once(tmp_path / "step", "key", work)
    assert (first.kept, second.kept, work.calls) == (False, True, 1)
    assert second.seconds == first.seconds
    assert (tmp_path / "step" / "made-1").exists()


def test_an_interrupted_step_is_done_anew(tmp_path: Path) -> None:
    work = Work(tmp_path / "step", failures=1)
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "step", "key", work)
    assert not once(tmp_path / "step", "key", work).kept
    assert sorted(p.name for p in (tmp_path / "step").iterdir()) == ["made-2", "step.json"]


def test_another_key_does_a_step_anew(tmp_path: Path) -> None:
    work = Work(tmp_path / "step")
    once(tmp_path / "step", "key", work)
    assert not once(tmp_path / "step", "other", work).kept
    assert sorted(p.name for p in (tmp_path / "step").iterdir()) == ["made-2", "step.json"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"data' is in the way.*give another --out"):
        once(tmp_path / "data", "key", Work(tmp_path / "data"))
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "codec").touch()
    with pytest.raises(ValueError, match="give another --out"):
        once(tmp_path / "codec", "key", Work(tmp_path / "codec"))


def test_a_key_follows_the_command_and_what_it_reads(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture, extra = folder / "a.png", tmp_path / "codec.json"
    picture.write_bytes(b"one")
    extra.write_bytes(b"{}")
    keys = [make_key(["train", "--bpp", "0.33"], folder, extra)]
    keys.append(make_key(["train", "--bpp", "0.635"], folder, extra))
    picture.write_bytes(b"two")
    keys.append(make_key(["train", "--bpp", "0.33"], folder, extra))
    picture.rename(folder / "b.png")
    keys.append(make_key(["train", "--bpp", "0.33"], folder, extra))
    extra.write_bytes(b"[]")
    keys.append(make_key(["train", "--bpp", "0.33"], folder, extra))
    assert len(set(keys)) == len(keys)
    picture = (folder / "b.png").rename(folder / "a.png")
    picture.write_bytes(b"one")
    extra.write_bytes(b"{}")
    assert make_key(["train", "--bpp", "0.33"], folder, extra) == keys[0]
