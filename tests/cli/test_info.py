import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdinfer.__main__ import main
from cdinfer.bitstream import Header, pack

SYMBOLS = np.zeros((1, 1, 1), dtype=np.uint8)


def write(path: Path, height: int = 480, width: int = 640, provisional: bool = False) -> Path:
    """A file of 1,222 bytes whose header is right; ``info`` reads no further."""
    header = Header("CAE_", 0x1234ABCD, height, width, provisional)
    path.write_bytes(pack(header, SYMBOLS, bytes(1200)))
    return path


def test_a_row_has_the_documented_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.cdi")
    assert main(["info", "--json", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "file": str(path),
        "codec": "CAE_",
        "bpp": 8 * 1222 / (480 * 640),
        "height": 480,
        "width": 640,
        "bytes": 1222,
        "stream": "1234abcd",
        "provisional": False,
        "groups": [],
        "fields": {},
    }


def test_people_get_a_line_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = write(tmp_path / "x.cdi")
    provisional = write(tmp_path / "y.cdi", provisional=True)
    assert main(["info", str(final), str(provisional)]) == 0
    tail = "1,222 bytes, 0.03182 bpp, 640 x 480"
    assert capsys.readouterr().out.splitlines() == [
        f"{final}: CAE_, stream 1234abcd: {tail}",
        f"{provisional}: CAE_, stream 1234abcd (provisional): {tail}",
    ]


def test_groups_and_fields_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = Header("CAE_", 0x1234ABCD, 8, 8, groups=(1, 2), fields=(("EXIF", b"12345"),))
    path = tmp_path / "x.cdi"
    path.write_bytes(pack(header, np.zeros((3, 1, 1), np.uint8), b"1234", b"123456"))
    assert main(["info", str(path)]) == 0
    start = f"{path}: CAE_, stream 1234abcd, channel groups of 1, 2, EXIF of 5 bytes: "
    assert capsys.readouterr().out.startswith(start)
    assert main(["info", "--json", str(path)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["groups"], row["fields"]) == ([1, 2], {"EXIF": 5})


def test_sides_beyond_sixteen_bits_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.cdi", height=70_000, width=2**32 - 1)
    assert main(["info", "--json", str(path)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["height"], row["width"], row["bytes"]) == (70_000, 2**32 - 1, 1230)


def test_bad_files_are_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good.cdi")
    empty, short, text = (tmp_path / f"{name}.cdi" for name in ("empty", "short", "text"))
    empty.write_bytes(b"")
    short.write_bytes(good.read_bytes()[:21])
    text.write_bytes(b"hello, world, this is no picture")
    newer = tmp_path / "newer.cdi"
    newer.write_bytes(b"CDI9" + good.read_bytes()[4:])
    missing = tmp_path / "god.cdi"
    bad = [empty, short, text, newer, missing, tmp_path]
    assert main(["info", *map(str, bad), str(good)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{good}: CAE_")
    assert len(out.splitlines()) == 1
    expected = [
        "truncated: the file ends after 0 bytes, inside its header; copy the file or encode the",
        "truncated: the file ends after 21 bytes, inside its header; copy the file or encode the",
        "not a .cdi file: expected it to start with b'CDI1', got b'hell'; make one with:",
        "written by a newer cdinfer, or damaged: its format is b'CDI9', not b'CDI1'; update",
        f"no such file; did you mean '{good}'?",
        "is a folder; give the files in it",
    ]
    for line, path, message in zip(err.splitlines(), bad, expected, strict=True):
        assert line.startswith(f"cdinfer info: {path}: {message}")


def test_every_truncation_of_the_header_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write(tmp_path / "x.cdi", height=70_000, width=70_000).read_bytes()
    paths = [tmp_path / f"{length}.cdi" for length in range(30)]
    for length, path in enumerate(paths):
        path.write_bytes(whole[:length])
    assert main(["info", *map(str, paths)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 30


def test_devices_and_unreadable_files_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "/dev/zero", "/proc/self/mem"]) == 1
    device, unreadable = capsys.readouterr().err.splitlines()
    assert device == "cdinfer info: /dev/zero: is a device or a pipe; give a file"
    assert unreadable.startswith("cdinfer info: /proc/self/mem: cannot be read (")
    assert unreadable.endswith("; check its permissions and the disk")


def test_a_name_that_is_no_text_can_be_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "\udcff.cdi")
    code = f"from cdinfer.__main__ import main; main(['info', {str(path)!r}])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"\\udcff.cdi: CAE_, stream" in ran.stdout
    assert ran.stderr == b""


def test_info_needs_neither_torch_nor_numba(tmp_path: Path) -> None:
    path = write(tmp_path / "x.cdi")
    code = (
        "import sys; from cdinfer.__main__ import main\n"
        f"status = main(['info', {str(path)!r}]); print(status, *sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *modules = ran.stdout.splitlines()[1].split()
    assert status == "0"
    assert "cdinfer.cli.info" in modules
    assert not {"torch", "numba", "PIL"} & set(modules)
