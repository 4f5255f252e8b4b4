import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.codecs import load_codec, save_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.layout import INDEX, find_pictures
from cdinfer.data.module import DataModule
from cdinfer.data.shards import ShardDataset
from tests.conftest import draw, random_codec

SMALL = ["--block", "3", "--per-shard", "4"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 training and 6 test pictures of 96 x 128: at least ten shards of four."""
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 30), ("test", 6)):
        for i in range(count):
            path = root / split / ("left", "right")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(96, 128, seed=100 * count + i)).save(path)
    return root


@pytest.fixture(scope="module")
def whole(scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that an uninterrupted export makes."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    assert main(["export", str(scenes), str(folder), "--codec", str(tiny_codec), *SMALL]) == 0
    return folder


@pytest.fixture
def photos(scenes: Path, tmp_path: Path) -> Path:
    """Some of the pictures, to be damaged."""
    return Path(shutil.copytree(scenes / "test", tmp_path / "photos"))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in folder.glob("[!.]*.tar")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def only_line(captured: str) -> str:
    (line,) = captured.splitlines()
    return line


# What it prints


def test_bytes_before_and_after_are_those_on_disk(
    whole: Path, scenes: Path, tiny_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["export", str(scenes), str(whole), "--codec", str(tiny_codec), *SMALL]
    assert main([*args, "--json"]) == 0
    captured = capsys.readouterr()
    row = json.loads(only_line(captured.out))
    before = sum(path.stat().st_size for path in scenes.rglob("*.png"))
    codec = sum(path.stat().st_size for path in (whole / "codec").iterdir())
    after = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) - codec
    headers = 22 * 36
    files = sum(
        len(data.file(i))
        for data in (ShardDataset(whole, split, None) for split in ("train", "val", "test"))
        for i in range(len(data))
    )
    assert row == {
        "set": str(whole),
        "pictures": 36,
        "skipped": 0,
        "dropped": 0,
        "below_floor": [],
        "bytes_before": before,
        "bytes_after": after,
        "bytes_codec": codec,
        "factor": before / after,
        "factor_with_codec": before / (after + codec),
        "overhead": after / (files - headers) - 1,
    }
    assert captured.err == ""
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"36 pictures -> {whole}"
    assert lines[1].split() == ["before", f"{before:,}", "bytes"]
    assert lines[2].split()[:4] == ["after", f"{after:,}", "bytes", f"{before / after:.2f}x"]
    assert lines[3].split()[:2] == ["codec/", f"{codec:,}"]


def test_options_reach_the_set(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    lists = Path(shutil.copytree(scenes, tmp_path / "lists"))
    (lists / "splits").mkdir()
    names = sorted(str(path.relative_to(lists)) for path in lists.rglob("*.png"))
    (lists / "splits" / "train_few.txt").write_text("\n".join(names[:9]))
    options = ["--splits", "few", "--resize", "32", "--per-shard", "5", "--block", "2"]
    args = [str(lists), str(tmp_path / "out"), "--codec", str(tiny_codec.parent), "--bpp", "0.33"]
    assert main(["export", *args, *options]) == 0
    data = DataModule(str(tmp_path / "out"), crop=32)
    assert data.lengths["train"] + data.lengths["val"] == 9
    assert data.preprocessing == {"resize": 32, "crop": 32}
    (batch,) = data.train_dataloader()
    assert batch["size"].tolist() == [[32, 43]] * data.lengths["train"]
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert {block[2] for entry in index["splits"]["train"] for block in entry["blocks"]} <= {1, 2}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_one_sample_a_key_is_for_stock_webdataset(
    photos: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    args = ["export", str(photos), str(tmp_path / "out"), "--codec", str(tiny_codec)]
    assert main([*args, "--block", "1"]) == 0
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    codec = load_codec(str(tiny_codec))
    classes = json.loads((tmp_path / "out" / INDEX).read_text())["classes"]
    assert len(found) == 6
    assert len({sample["__key__"] for sample in found}) == 6
    for sample in found:
        key = json.loads(sample["json"])["key"]
        (file,) = codec.compress(to_tensor(read_image(photos / key))[None])
        assert sample["cdi"] == file
        assert classes[int(sample["cls"])] == key.split("/")[0]
    with pytest.raises(ValueError, match="with --block 1, for other readers: export it without"):
        DataModule(str(tmp_path / "out"))


# Mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["phots", "out"], r"no folder 'phots'; did you mean 'photos'\?"),
        (["empty", "out"], r"no training pictures in 'empty': expected files ending in .*\.png"),
        (["shards", "out"], r"'shards' is a set of shards already: give a folder of pictures"),
        (["photos", "shards"], r"'shards' holds another export \(its \w+ differs\): choose"),
        (["photos", "photos"], r"'photos' is not empty \(it holds left\): choose another DST"),
        (["photos", "file"], r"cannot write file: File exists; make room or choose another DST"),
        (["photos", "out", "--bpp", "0.635"], r"nominal rate of 0\.33 bpp, not 0\.635: give --bpp"),
        (["photos", "out", "--codec", "cea"], r"no codec 'cea': expected a name \(cae, "),
        (["photos", "out", "--codec", "cae-paper"], r"no trained cae-paper .*: run cdinfer train"),
        (["photos", "out", "--codec", "cae", "--bpp", "0.3"], r"0\.3 bpp .*; use --bpp 0\.33"),
        (["photos", "out", "--splits", "x"], r"no photos/splits/train_x\.txt: give no --splits"),
        (["photos", "out", "--block", "0"], r"expected --block of at least 1, got 0"),
        (["photos", "out", "--per-shard", "-1"], r"expected --per-shard of at least 1, got -1"),
        (["photos", "out", "--resize", "0"], r"expected --resize of at least 1, got 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_a_remedy(
    args: list[str],
    message: str,
    photos: Path,
    whole: Path,
    tiny_codec: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    shutil.copytree(whole, "shards")
    Path("empty").mkdir()
    Path("file").touch()
    before = digests(Path())
    codec = [] if "--codec" in args else ["--codec", str(tiny_codec)]
    assert main(["export", *args, *codec]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("cdinfer export: ")
    assert re.search(message, line), line
    assert digests(Path()) == before


def test_an_unreadable_picture_stops_by_default_and_is_named(
    photos: Path, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "left" / "4.png").write_bytes(b"no picture")
    args = ["export", str(photos), str(tmp_path / "out"), "--codec", str(tiny_codec), "--json"]
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = only_line(captured.err)
    assert line.startswith(f"cdinfer export: {photos}/left/4.png: cannot be read")
    assert line.endswith("--on-error skip leaves such pictures out")


def test_an_unreadable_picture_is_left_out_on_request(
    photos: Path, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "left" / "4.png").write_bytes(b"no picture")
    args = ["export", str(photos), str(tmp_path / "out"), "--codec", str(tiny_codec), "--json"]
    assert main([*args, "--on-error", "skip"]) == 0
    captured = capsys.readouterr()
    row = json.loads(only_line(captured.out))
    assert (row["pictures"], row["skipped"]) == (5, 1)
    line = only_line(captured.err)
    assert line.startswith(f"cdinfer export: left out {photos}/left/4.png: cannot be read")
    lengths = DataModule(str(tmp_path / "out")).lengths
    assert sum(lengths.values()) == 5
    assert main([*args[:-1], "--on-error", "skip"]) == 0
    assert "5 pictures (1 left out) -> " in capsys.readouterr().out


# Faults, for real


def start(args: list[str], **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cdinfer", "export", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes, **options)


def assert_nothing_is_half_written(folder: Path, whole: Path) -> None:
    """Every visible file but the index is one of the finished set; readers see what it is."""
    expected = digests(whole)
    visible = {n: d for n, d in digests(folder).items() if not Path(n).name.startswith(".")}
    index = visible.pop(INDEX, None)
    assert visible.items() <= expected.items()
    hidden = [p for p in folder.rglob(".*") if p.name != "."]
    assert all(path.name.endswith(".partial") for path in hidden)
    if index is None:
        assert not visible
    elif index != expected[INDEX]:
        with pytest.raises(ValueError, match="was interrupted: run the same export again"):
            DataModule(str(folder))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.parametrize(
    "appears",
    [
        "train-00002.tar",
        pytest.param("codec", marks=pytest.mark.slow),
        pytest.param("train-00000.targets.tar", marks=pytest.mark.slow),
        pytest.param("val-00000.tar", marks=pytest.mark.slow),
        pytest.param("test-00000.tar", marks=pytest.mark.slow),
    ],
)
def test_a_killed_export_goes_on_and_ends_byte_identical(
    scenes: Path, whole: Path, tiny_codec: Path, tmp_path: Path, appears: str
) -> None:
    folder = tmp_path / "shards"
    args = [str(scenes), str(folder), "--codec", str(tiny_codec), *SMALL]
    process = start(args)
    wait_for(folder / appears, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert_nothing_is_half_written(folder, whole)
    listed = json.loads((folder / INDEX).read_text())["splits"]
    done = {
        f"{e['name']}{end}" for s in listed.values() for e in s for end in (".tar", ".targets.tar")
    }
    before = {name: inode for name, inode in inodes(folder).items() if name in done}
    assert appears == "codec" or len(before) >= (0 if "00000" in appears else 4)
    assert main(["export", *args]) == 0
    assert before.items() <= inodes(folder).items()  # not encoded again
    assert digests(folder) == digests(whole)


#: Forks an export for each of its renames, which an audit hook kills there, and one that goes on.
SWEEP = """
import os, shutil, signal, sys
from cdinfer.__main__ import main

SRC, DST, *OPTIONS = sys.argv[1:]

def export(folder, kill_at):
    pid = os.fork()
    if pid == 0:
        renames = 0
        def hook(event, args):
            nonlocal renames
            renames += event == "os.rename"
            if event == "os.rename" and renames == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        os._exit(main(["export", SRC, folder, *OPTIONS]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert main(["export", SRC, f"{DST}/first", *OPTIONS]) == 0  # everything is loaded now
os.mkdir(f"{DST}/killed")
kill_at = 0
while kill_at == 0 or status:
    kill_at += 1
    status = export(f"{DST}/{kill_at}", kill_at)
    assert status in (0, -signal.SIGKILL), status
    shutil.copytree(f"{DST}/{kill_at}", f"{DST}/killed/{kill_at}")
    assert export(f"{DST}/{kill_at}", None) == 0
"""


@pytest.mark.slow
def test_killed_at_any_rename_an_export_ends_byte_identical(
    scenes: Path, whole: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    options = ["--codec", str(tiny_codec), *SMALL, "--json"]
    subprocess.run(
        [sys.executable, "-c", SWEEP, str(scenes), str(tmp_path), *options],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    killed = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    shards = len(list(whole.glob("*.targets.tar")))
    # the first index, four files of the codec, two tars and the index of each shard, the last index
    assert len(killed) == 1 + 4 + 3 * shards + 1 + 1
    for folder in killed:
        assert_nothing_is_half_written(folder, whole)
        assert digests(tmp_path / folder.name) == digests(whole)


@pytest.mark.parametrize("limit", [120_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tiny_codec: Path, tmp_path: Path, limit: int
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(32):
        pixels = rng.integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    folder = tmp_path / "shards"
    args = [str(tmp_path / "photos"), str(folder), "--codec", str(tiny_codec), "--json"]
    process = start(
        args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    out, err = process.communicate()
    assert process.returncode == 2
    assert out == ""
    line = only_line(err)
    name = "train-00000.tar" if limit > 100_000 else "codec/encoder.safetensors"
    assert line.startswith(f"cdinfer export: cannot write {folder}/{name}: File too large; make")
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    codec = {f"codec/{file.name}" for file in tiny_codec.iterdir()} if limit > 100_000 else set()
    assert left == {INDEX} | codec
    with pytest.raises(ValueError, match="was interrupted"):
        DataModule(str(folder))
    assert main(["export", *args]) == 0
    assert sum(DataModule(str(folder)).lengths.values()) == 32


def test_another_codec_does_not_go_into_the_same_set(
    whole: Path, scenes: Path, tmp_path: Path, pictures: list, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "shards"))
    save_codec(random_codec(5, pictures), tmp_path / "codec", {})
    assert main(["export", str(scenes), str(folder), "--codec", str(tmp_path), *SMALL]) == 2
    assert "holds another export (its stream differs)" in capsys.readouterr().err
    assert digests(folder) == digests(whole)


def test_a_set_can_be_exported_with_its_own_codec(
    whole: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    assert main(["export", str(scenes), str(folder), "--codec", str(whole), *SMALL]) == 0
    assert digests(folder) == digests(whole)
    assert main(["export", str(scenes), str(folder), "--codec", str(folder), *SMALL]) == 0
    assert digests(folder) == digests(whole)


def test_pictures_of_the_set_are_those_of_the_folder(whole: Path, scenes: Path) -> None:
    for split, items in find_pictures(scenes).splits.items():
        assert sorted(ShardDataset(whole, split, None).keys()) == sorted(i.key for i in items)
