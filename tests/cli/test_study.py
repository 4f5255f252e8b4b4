import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cdinfer.__main__ import main
from tests.conftest import draw

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own empty folder."""
    monkeypatch.chdir(tmp_path)


def study(*args: object) -> int:
    return main(["study", "rd", *map(str, args)])


def test_rows_are_printed_one_object_a_line(picture_folder: Path, tiny_codec: Path, capsys) -> None:
    assert study(picture_folder, "--codecs", "jpeg", tiny_codec, "--out", "out", "--json") == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    tables = [row["table"] for row in rows]
    assert {name: tables.count(name) for name in dict.fromkeys(tables)} == {
        "pictures": 40, "means": 10, "equal_bytes": 1, "equal_rates": 5, "bd_rate": 1,
    }  # fmt: skip
    assert err == ""
    assert list(rows[0]) == [
        "table", "codec", "setting", "picture", "source_bytes", "height", "width", "bytes", "bpp",
        "psnr", "ssim", "ms_ssim", "encode_ms", "decode_ms",
    ]  # fmt: skip
    assert Path("out/rd.html").is_file()


def test_compute_counts_what_the_networks_cost(capsys: Capture) -> None:
    flags = ["--size", "64x96", "--classes", "7", "--rounds", "0"]
    assert main(["study", "compute", *flags, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (row,) = [r for r in rows if r.get("name") == "cae encoder"]
    assert row["gmac"] == pytest.approx(3.527 * 64 * 96 / 224**2, rel=1e-3)
    assert Path("runs/study/compute/break_even.csv").is_file()
    assert main(["study", "compute", *flags]) == 0
    assert "## Looks at a picture until encoding it has paid" in capsys.readouterr().out


def test_compute_reads_records(capsys: Capture) -> None:
    about = {"table": "t", "preset": "p", "arm": "a", "bpp": None, "data": None, "seed": 0}
    record = {"name": "a-0", "about": about, "metrics": {"macs": 10**9, "test/miou": 0.5}}
    Path("records.json").write_text(json.dumps([record]))
    flags = ["--size", "16", "--rounds", "0", "--codecs", "cae-lite", "--records"]
    assert main(["study", "compute", *flags, "records.json"]) == 0
    out, _ = capsys.readouterr()
    assert "| t, p |   a |   - | 50.00% | miou |     1 | 1.0000 |      yes |" in out
    assert main(["study", "compute", *flags, "nowhere.json"]) == 2
    _, err = capsys.readouterr()
    assert err == (
        "cdinfer study: nowhere.json: expected a file or folder of records; check the path\n"
    )


@pytest.mark.parametrize("size", ["7", "64x", "a", "64x64x3", "9000"])
def test_sizes_that_are_none_are_refused(size: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["study", "compute", "--size", size])
    assert "expected pixels as 224 or, height first, 360x480" in capsys.readouterr().err


def test_people_get_tables_and_the_place_of_the_page(picture_folder: Path, capsys: Capture) -> None:
    assert study(picture_folder, "--codecs", "jpeg", "webp") == 0
    out, err = capsys.readouterr()
    assert "| jpeg q30 " in out
    assert "runs/study/rd/rd.html shows curves and crops" in out
    assert err == ""
    assert Path("runs/study/rd/rd.md").read_text("utf-8") in out


def test_the_anchor_can_be_chosen(picture_folder: Path, capsys: Capture) -> None:
    flags = ["--codecs", "jpeg", "webp", "--anchor", "webp", "--json"]
    assert study(picture_folder, *flags) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["codec"], r["anchor"]) for r in rows if r["table"] == "bd_rate"] == [
        ("jpeg", "webp")
    ]


def test_bad_pictures_are_named_and_the_rest_is_done(picture_folder: Path, capsys: Capture) -> None:
    bad = picture_folder / "a" / "bad.png"
    bad.write_bytes((picture_folder / "a" / "0.png").read_bytes()[:100])
    assert study(picture_folder, "--codecs", "jpeg", "--json") == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"cdinfer study rd: {bad}: cannot be read (")
    assert sum(json.loads(row)["table"] == "pictures" for row in out.splitlines()) == 36


def test_nothing_is_left_behind_when_no_picture_can_be_read(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_text("no picture")
    assert study("photos", "--codecs", "jpeg", "--out", "out") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert [path.name for path in Path("out").iterdir()] == ["records"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rd", "empty"], "no pictures in 'empty': expected PNG, JPEG, WebP, ... files there"),
        (["rd", "nowhere"], "nowhere: expected a folder of pictures; check the path"),
        (["rd", "photos", "--codecs", "jpge"], "no codec 'jpge'; did you mean 'jpeg'? (a codec of"),
        (["rd", "photos", "--codecs", "jpeg", "--out", "file"], "file/records: Not a directory"),
        (["rdd", "photos"], "unknown study 'rdd'; did you mean 'rd'?"),
        (["x"], "unknown study 'x'; known: rd"),
    ],
)
def test_mistakes_are_one_line(args: list[str], message: str, capsys: Capture) -> None:
    Path("empty").mkdir()
    Path("photos").mkdir()
    Path("file").touch()
    Image.fromarray(draw(8, 8, 0)).save("photos/x.png")
    assert main(["study", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cdinfer study: {message}")
    assert len(err.splitlines()) == 1


def test_help_names_the_studies_and_the_fields(capsys: Capture) -> None:
    assert main(["study"]) == 2
    assert main(["study", "--help"]) == 0
    assert "cdinfer study rd FOLDER" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        study("--help")
    assert "example: cdinfer study rd photos/" in capsys.readouterr().out


def test_a_killed_study_goes_on_where_it_was(picture_folder: Path, capsys: Capture) -> None:
    flags = [str(picture_folder), "--codecs", "jxl", "--out", "out", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cdinfer", "study", "rd", *flags]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    records = Path("out/records")
    deadline = time.monotonic() + 120
    while not list(records.glob("jxl-d13-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    assert child.communicate()[0] == b""
    assert child.returncode == -signal.SIGKILL
    before = {path: path.read_bytes() for path in records.iterdir()}
    done = sum(data.count(b'"key"') for data in before.values())
    assert 4 <= done < 32
    assert not Path("out/rd.html").exists()
    assert main(["study", "rd", *flags]) == 0
    assert all(path.read_bytes().startswith(data) for path, data in before.items())
    whole = {path: path.read_bytes() for path in records.iterdir()}
    measured = [data for path, data in whole.items() if path.name.startswith("jxl")]
    assert sum(data.count(b'"key"') for data in measured) == 32
    capsys.readouterr()
    assert main(["study", "rd", *flags]) == 0
    assert {path: path.read_bytes() for path in records.iterdir()} == whole
    with Path("out/pictures.csv").open(newline="") as file:
        times = [float(row["encode_ms"]) for row in csv.DictReader(file)]
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["encode_ms"] for row in printed if row["table"] == "pictures"] == times
