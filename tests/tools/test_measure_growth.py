import sys

import pytest
from PIL import Image

from tools import measure_growth
from tools.measure_growth import Cost, row, write_pictures


def test_pictures_are_crops_and_are_made_once(tmp_path) -> None:
    write_pictures(tmp_path, 5)
    paths = sorted(tmp_path.rglob("*.png"))
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "a/000000.png", "a/000002.png", "a/000004.png", "b/000001.png", "b/000003.png",
    ]  # fmt: skip
    pictures = [Image.open(path).tobytes() for path in paths]
    assert len(set(pictures)) == 5
    assert {len(picture) for picture in pictures} == {3 * 64 * 64}
    before = [path.stat().st_mtime_ns for path in paths]
    write_pictures(tmp_path, 5)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_row_tells_what_one_picture_more_costs() -> None:
    costs = [Cost(1.0, 2**20), Cost(20.0, 3 * 2**20)]
    cells = "1.0 s, 1.0 MiB | 20.0 s, 3.0 MiB"
    assert row("export", costs, [1000, 9192]) == f"| export | {cells} | 256 |"


@pytest.mark.slow
def test_memory_does_not_follow_the_number_of_pictures(tmp_path, monkeypatch, capsys) -> None:
    command = ["measure_growth", "--counts", "100", "2100", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    measure_growth.main()
    lines = capsys.readouterr().out.splitlines()
    each = {line.split("|")[1].strip(): float(line.split("|")[-2]) for line in lines[2:]}
    assert each["export"] < 8_000  # a picture has 12,288 bytes
    assert each["an epoch"] < 4_000
    assert each["index.json"] < 5
