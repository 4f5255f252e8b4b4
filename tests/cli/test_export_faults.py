"""What can happen to an export: killed, interrupted, out of room, not alone."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.data.layout import INDEX
from cdinfer.data.lock import LOCK
from cdinfer.data.module import DataModule
from tests.cli.conftest import SMALL
from tests.cli.test_export import digests, only_line


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in folder.glob("[!.]*.tar")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


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
    hidden = [path.name for path in folder.rglob(".*")]
    assert all(name == LOCK or name.endswith(".partial") for name in hidden)
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
    assert left == {INDEX, LOCK} | codec
    with pytest.raises(ValueError, match="was interrupted"):
        DataModule(str(folder))
    assert main(["export", *args]) == 0
    assert sum(DataModule(str(folder)).lengths.values()) == 32


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB; for root on Linux."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_with_room_again_an_export_goes_on(
    scenes: Path,
    whole: Path,
    tiny_codec: Path,
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    workers: str,
) -> None:
    folder = disk / "shards"
    size = sum(path.stat().st_size for path in tiny_codec.iterdir()) // 1024 + 60
    remount(disk, f"size={size}k")
    args = ["export", str(scenes), str(folder), "--codec", str(tiny_codec), *SMALL, "--json"]
    assert main([*args, "--workers", workers]) == 2
    line = only_line(capsys.readouterr().err)
    assert re.match(rf"cdinfer export: cannot write {folder}/\S+: No space left on device; ", line)
    assert_nothing_is_half_written(folder, whole)
    assert not list(folder.rglob("*.partial"))
    assert list(folder.glob("*.tar"))
    remount(disk, "size=64m")
    remount(disk, "ro")
    assert main(args) == 2
    line = only_line(capsys.readouterr().err)
    assert line.startswith(f"cdinfer export: cannot write {folder}/{LOCK}: Read-only file system;")
    remount(disk, "rw")
    assert main(args) == 0
    assert digests(folder) == digests(whole)


def test_of_two_exports_into_one_folder_one_wins(
    scenes: Path, whole: Path, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    args = [str(scenes), str(folder), "--codec", str(tiny_codec), *SMALL, "--json"]
    process = start(args)
    wait_for(folder / "codec", process)
    process.send_signal(signal.SIGSTOP)  # long enough for the other
    assert main(["export", *args]) == 2
    message = f"cdinfer export: another cdinfer is writing '{folder}': wait for it or choose"
    assert only_line(capsys.readouterr().err).startswith(message)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert digests(folder) == digests(whole)


def wait_for_the_end_of(group: int) -> None:
    """Wait until no process of a group is left: a worker ends when it misses its parent."""
    deadline = time.monotonic() + 120
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_too(
    scenes: Path, whole: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    args = [str(scenes), str(folder), "--codec", str(tiny_codec), *SMALL, "--json"]
    for appears in ("codec", "train-00001.tar"):
        process = start([*args, "--workers", "2"], start_new_session=True)
        wait_for(folder / appears, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate()
        assert (process.returncode, out) == (130, "")
        assert only_line(err) == "cdinfer export: interrupted"
        wait_for_the_end_of(process.pid)
        assert_nothing_is_half_written(folder, whole)
    assert main(["export", *args]) == 0
    assert digests(folder) == digests(whole)


@pytest.mark.slow
def test_killed_at_random_moments_an_export_with_workers_ends_byte_identical(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    options = ["--codec", str(tiny_codec), "--block", "3", "--per-shard", "2", "--json"]

    def command(folder: Path) -> list[str]:
        return [str(scenes), str(folder), *options, "--workers", "2"]

    whole = tmp_path / "whole"
    process = start(command(whole))
    wait_for(whole / INDEX, process)
    begun = time.monotonic()
    assert process.communicate()[1] == ""
    length = time.monotonic() - begun
    tars = len(list(whole.glob("*.tar")))
    rng = np.random.default_rng()
    finished = []
    for number in range(30):
        folder = tmp_path / str(number)
        process = start(command(folder), start_new_session=True)
        wait_for(folder / INDEX, process)
        if number % 3 == 0:  # at any time
            time.sleep(rng.uniform(0, length))
        else:  # while shards are written, which is soon over
            moment = rng.uniform(0, tars)
            while process.poll() is None and len(list(folder.glob("[!.]*.tar"))) < int(moment):
                time.sleep(0.0005)
            time.sleep(moment % 1 * 0.02)
        process.kill()
        process.communicate()
        wait_for_the_end_of(process.pid)
        assert_nothing_is_half_written(folder, whole)
        finished.append(len(list(folder.glob("*.targets.tar"))))
        again = command(folder) if number % 5 == 0 else command(folder)[:-2]
        assert main(["export", *again]) == 0
        assert digests(folder) == digests(whole)
    print(f"shards finished when killed: {sorted(finished)}")  # noqa: T201
