import io
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cdinfer.__main__ import main
from cdinfer.data.index import read_index
from cdinfer.data.shards import ShardDataset
from cdinfer.data.verify import verify


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """A set of 12 training, 4 validation and 6 test pictures, to be changed."""
    return Path(shutil.copytree(shards, tmp_path / "set"))


@pytest.fixture
def more(labelled: Path, tmp_path: Path) -> Path:
    """Some of its pictures under other names."""
    for i, path in enumerate(sorted((labelled / "train").rglob("*.png"))[2:10]):
        place = tmp_path / "more" / path.parent.name / f"new{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return tmp_path / "more"


def keys(root: Path) -> list[str]:
    sets = [ShardDataset(root, split, None, whole=True) for split in read_index(root).splits]
    return [key for data in sets for key in data.keys()]  # noqa: SIM118


def damage(root: Path) -> None:
    path = root / "test-00000.tar"
    content = bytearray(path.read_bytes())
    content[read_index(root).splits["test"].shards[0].blocks[0].offset + 30] ^= 1
    path.write_bytes(content)


def test_a_whole_set_passes(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "verify", str(copy)]) == 0
    out, err = capsys.readouterr()
    assert out == f"22 samples in 3 shards of {copy}: all as the index says\n"
    assert err == ""
    assert main(["shards", "verify", str(copy), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {
        "set": str(copy), "shards": 3, "blocks": 3, "samples": 22, "leftovers": [], "faults": [],
    }  # fmt: skip


def test_damage_is_named_and_the_exit_status_is_1(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ShardDataset(copy, "test", None).keys()[0]
    damage(copy)
    (copy / "val-00000-1.tar").touch()
    assert main(["shards", "verify", str(copy)]) == 1
    sums, block, left, verdict = capsys.readouterr().out.splitlines()
    assert sums == "test-00000: test-00000.tar: its sha256 is not that of the index"
    assert block.startswith(f"test-00000, block 0, '{key}': damaged: the checksum does not match")
    assert left == "val-00000-1.tar: left by an interrupted change; the next change removes it"
    assert verdict == f"22 samples in 3 shards of {copy}: 2 faults"
    assert main(["shards", "verify", str(copy), "--json"]) == 1
    row = json.loads(capsys.readouterr().out)
    assert row["faults"][1]["key"] == key
    assert row["faults"][1]["block"] == 0
    assert row["leftovers"] == ["val-00000-1.tar"]


def test_delete_then_absent(copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gone = keys(copy)[:2]
    assert main(["shards", "verify", str(copy), "--absent", *gone]) == 1
    assert "still in the set; cdinfer shards delete removes it" in capsys.readouterr().out
    (tmp_path / "list.txt").write_text(f"{gone[1]}\n\n")
    flags = ["--list", str(tmp_path / "list.txt"), "--json"]
    assert main(["shards", "delete", str(copy), gone[0], *flags]) == 0
    assert json.loads(capsys.readouterr().out) == {"set": str(copy), "deleted": 2}
    assert main(["shards", "verify", str(copy), "--absent", *gone]) == 0
    assert not set(gone) & set(keys(copy))


def test_relabel_reads_a_list(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bark = [key for key in keys(copy) if "bark" in key][:2]
    text = "".join(f"{key},leaf\n" for key in bark)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"key,class\n{text}".encode())))
    assert main(["shards", "relabel", str(copy), "-"]) == 0
    assert capsys.readouterr().out == f"2 samples of {copy} have another class now\n"
    data = ShardDataset(copy, "train", None)
    assert data.labels.sum() == 8


def test_append_and_merge(
    copy: Path, more: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "append", str(copy), str(more), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "set": str(copy), "appended": 8, "skipped": 0, "dropped": 0,
    }  # fmt: skip
    added = set(keys(copy)) - set(keys(shards))
    assert added == {str(path.relative_to(more)) for path in more.rglob("*.png")}
    assert main(["shards", "delete", str(copy), *keys(shards)]) == 0
    assert main(["shards", "merge", str(shards), str(copy), "-o", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"8 samples came to {tmp_path / 'both'}"
    assert sorted(keys(tmp_path / "both")) == sorted([*keys(shards), *added])


def test_pictures_that_cannot_be_read_are_named(
    copy: Path, more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sorted(more.rglob("*.png"))[0]
    bad.write_bytes(b"no picture")
    assert main(["shards", "append", str(copy), str(more)]) == 2
    assert f"{bad.name}: cannot be read" in capsys.readouterr().err
    assert main(["shards", "append", str(copy), str(more), "--on-error", "skip"]) == 0
    out, err = capsys.readouterr()
    assert out == f"7 pictures came to {copy} (1 left out)\n"
    assert err.startswith(f"cdinfer shards: left out {bad}: ")


@pytest.mark.parametrize(("drop", "verb"), [([], "kept"), (["--drop"], "left out")])
def test_pictures_below_the_floor_of_the_set_are_named(
    drop: list[str], verb: str, labelled: Path, more: Path, tiny_codec: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ["--codec", str(tiny_codec), "--json", "--min-psnr"]
    assert main(["export", str(more), str(tmp_path / "all"), *flags, "99"]) == 0
    below = json.loads(capsys.readouterr().out)["below_floor"]
    ranked = sorted((psnr, key) for key, psnr in below)
    floor = f"{(ranked[2][0] + ranked[3][0]) / 2:.4f}"
    root = tmp_path / "set"
    assert main(["export", str(labelled), str(root), *flags, floor, *drop]) == 0
    capsys.readouterr()
    assert main(["shards", "append", str(root), str(more), "--json"]) == 0
    out, err = capsys.readouterr()
    count = 3 if drop else 0
    row = {"set": str(root), "appended": 8 - count, "skipped": 0, "dropped": count}
    assert json.loads(out) == row
    assert sorted(err.splitlines()) == sorted(
        f"cdinfer shards: {verb} {more / key}: {psnr:.2f} dB, below {float(floor):g}"
        for psnr, key in ranked[:3]
    )
    gone = {key for _, key in ranked[:3]} - set(keys(root))
    assert len(gone) == count


def test_a_set_that_drops_all_that_comes_is_told_so(
    copy: Path, more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = json.loads((copy / "index.json").read_text())
    index["floor"] = {"min_psnr": 99.0, "drop": True}
    (copy / "index.json").write_text(json.dumps(index))
    assert main(["shards", "append", str(copy), str(more)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("; a set exported without --drop keeps what is below its floor")


def test_what_append_cannot_do_is_one_line(
    copy: Path, shards: Path, more: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["shards", "append", str(copy), str(more), "--json", "--device", "cuda"]) == 2
    line = "cdinfer shards: no CUDA device on this machine: give --device cpu\n"
    assert capsys.readouterr().err == line
    assert main(["shards", "append", str(copy), str(shards)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"cdinfer shards: '{shards}' is a set of shards already: give pictures")
    assert sorted(keys(copy)) == sorted(keys(shards))


def test_keys_may_hold_what_ends_a_line_elsewhere(copy: Path, more: Path, tmp_path: Path) -> None:
    odd = [f"bark/a{mark}b.png" for mark in ("\u2028", "\x85", "\x0b", "\x1c", ",")]
    for key in odd:
        shutil.copy(next(more.rglob("*.png")), more / key)
    assert main(["shards", "append", str(copy), str(more)]) == 0
    lines = "".join(f'"{key}",leaf\r\n\n' for key in odd)
    (tmp_path / "list.csv").write_bytes(f"\ufeff\n\r\nkey,class\n{lines}".encode())
    assert main(["shards", "relabel", str(copy), str(tmp_path / "list.csv")]) == 0
    assert {rows(copy)[key] for key in odd} == {"leaf"}
    (tmp_path / "list.txt").write_bytes("\r\n\n".join(odd).encode())
    assert main(["shards", "delete", str(copy), "--list", str(tmp_path / "list.txt")]) == 0
    assert not set(odd) & set(keys(copy))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty: expected lines key,class"),
        ("a.png,b,c\n", r"line 1: expected key,class, got 'a\.png,b,c'"),
        ("a.png,\n", r"line 1: expected key,class"),
        ("\n\nkey,class\n\na.png\n", r"line 5: expected key,class, got 'a\.png'"),
        (f"a.png,{'x' * 200_000}\n", r"line 1: expected key,class: field larger than field limit"),
        ('\na.png,"bark\n', r"line 2: expected key,class: unexpected end of data"),
        ("a.png,bark\na.png,leaf\n", r"line 2: 'a\.png' was bark before"),
        ("a.png,bark\n", r"no 'a\.png' in "),
        ("a.png,brak\n", r"no class 'brak' in .* did you mean 'bark'\?; --new-classes adds"),
    ],
)
def test_a_wrong_list_is_one_line(
    copy: Path, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text(text)
    assert main(["shards", "relabel", str(copy), str(tmp_path / "list.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cdinfer shards: ")
    assert re.search(message, line)


@pytest.mark.parametrize("action", ["verify", "delete", "merge"])
def test_no_set_is_one_line(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [] if action == "verify" else ["x"]
    assert main(["shards", action, str(tmp_path), *rest]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cdinfer shards: no shards in ")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_delete_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "delete", str(copy)]) == 2
    assert "nothing to delete: give keys, or --list FILE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("action", ["append", "delete", "merge", "relabel"])
def test_kill_9_at_random_moments(
    action: str, copy: Path, more: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    old = rows(copy)
    added = {key: key.split("/")[0] for key in _below(more)}
    args = {
        "append": [str(more)],
        "delete": list(old)[::3],
        "merge": [str(tmp_path / "other")],
        "relabel": [str(tmp_path / "list.csv")],
    }[action]
    (tmp_path / "list.csv").write_text("".join(f"{key},leaf\n" for key in old))
    assert main(["export", str(more), str(tmp_path / "other"), "--codec", str(tiny_codec)]) == 0
    new = {
        "append": old | added,
        "delete": {key: old[key] for key in old if key not in args},
        "merge": old | added,
        "relabel": dict.fromkeys(old, "leaf"),
    }[action]
    rng, kills = random.Random(0), 0
    for attempt in range(8):
        place = Path(shutil.copytree(copy, tmp_path / str(attempt)))
        before = set(place.iterdir())
        command = [sys.executable, "-m", "cdinfer", "shards", action, str(place), *args]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and set(place.iterdir()) == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.4 if action == "append" else 0.04))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        assert rows(place) in (old, new)
        assert main(["shards", "verify", str(place)]) == 0
        if rows(place) == old:
            assert main(["shards", action, str(place), *args]) == 0
        else:  # the next change clears away what a kill left, even if it is refused
            assert main(["shards", "delete", str(place), "not there"]) == 2
        assert rows(place) == new
        gone = ["--absent", *args] if action == "delete" else []
        assert main(["shards", "verify", str(place), *gone]) == 0
        assert verify(place).leftovers == []
    assert kills > 4


def rows(root: Path) -> dict[str, str]:
    """Return the class of every key."""
    sets = [ShardDataset(root, split, None, whole=True) for split in read_index(root).splits]
    return {
        key: data.classes[label]
        for data in sets
        for key, label in zip(data.keys(), data.labels, strict=True)
    }


def _below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.png")]
