import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdinfer.studies.cells import Cell
from tools.experiments import keep, results
from tools.experiments.arms import TABLES, plan
from tools.experiments.summary import summarise

ROOT = Path(__file__).parents[3]

PAGE = "# Results\n\n<!-- table: rsscn7-cpu -->\nold\n<!-- end -->\n\nmore\n"


def records(seeds: int = 5) -> list[dict[str, Any]]:
    """Return made-up records of the whole table: latents 2 points above decoded at 0.33 bpp."""
    rng = np.random.default_rng(0)
    required, everything = plan("rsscn7", "cpu", range(seeds))
    needed = {name for cell in required for name in cell.needs} | {"set-0.0983", "set-0.33"}
    found = []
    for cell in everything:
        if cell in required:
            top1 = 0.6 + 0.01 * rng.random() + 0.03 * (cell.about["arm"] == "latents")
            metrics = {"test/top1": top1, "macs": 48 * 10**6, "parameters": 1_500_000}
            metrics |= {"steps": 600, "batch": 32}
        elif cell.name in needed:
            metrics = {"pictures": 2800, "bytes": 2_198_802}
            if cell.name.startswith("set-"):
                size = 2_198_807 if cell.name == "set-0.33" else 840_000
                metrics = {"pictures": 2800, "bytes_before": 72_519_354, "bytes_after": size}
        else:
            continue
        found.append(record(cell, metrics))
    return found


def record(cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": cell.name,
        "about": cell.about,
        "commands": [list(line) for line in cell.commands],
        "metrics": metrics,
        "seconds": 100.0,
        "cpu_seconds": 90.0,
        "git": {"commit": "69b1616" + 33 * "0", "dirty": False},
        "hardware": {"processor": "AMD EPYC", "cores": 2, "threads": "1", "gpu": None},
        "versions": {"python": "3.11.7", "torch": "2.14.1", "cdinfer": "0.1.0"},
    }


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with the file of made-up records."""
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "rsscn7-cpu.json").write_text(json.dumps(records()))
    return folder


def rows(text: str) -> list[dict[str, list[str]]]:
    """Return the cells of each table of a page, by the first of each row."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    lines = [[re.split(r" *\| *", line.strip("| ")) for line in t.splitlines()] for t in tables]
    return [{line[0].strip(): line[1:] for line in table} for table in lines]


def test_the_numbers_of_a_table_are_those_of_its_records(kept: Path) -> None:
    page = results.fill(PAGE, kept)
    scores, differences, costs = rows(page)
    mine = {
        rate: [
            100 * r["metrics"]["test/top1"]
            for r in records()
            if (r["about"].get("arm"), r["about"]["bpp"]) == ("latents", rate)
        ]
        for rate in (0.0983, 0.33)
    }
    assert scores["latents, cResNet-39"][:2] == [
        f"{np.mean(v):.2f} ± {statistics.stdev(v):.2f}" for v in mine.values()
    ]
    decoded = [r["metrics"]["test/top1"] for r in records() if r["name"].startswith("decoded-0.33")]
    gain = float(np.mean(mine[0.33])) - 100 * float(np.mean(decoded))
    match = re.fullmatch(
        r"\*\*([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]\*\*", differences["latents - decoded"][1]
    )
    assert match
    mean, low, high = map(float, match.groups())
    assert mean == pytest.approx(gain, abs=0.005)
    assert 0 < low < mean < high
    assert not differences["patch - decoded"][1].startswith("**")
    assert scores["bytes a picture, latents"][:2] == ["300", "785"]
    assert scores["bytes a picture, WebP of equal bytes"][1] == "785"
    assert scores["bytes a picture, originals"][2] == "25,900"
    assert costs["originals, ResNet-50"] == ["48.0", "1.50", "600 x 32", "90"]
    for said in ("seeds 0, 1, 2, 3, 4", "$CDINFER_TEST_DATA/rsscn7", "AMD EPYC", "69b1616"):
        assert said in page
    assert page.startswith("# Results\n")
    assert page.endswith("<!-- end -->\n\nmore\n")


def test_few_seeds_claim_nothing(kept: Path) -> None:
    (kept / "rsscn7-cpu.json").write_text(json.dumps(records(4)))
    assert "**" not in results.fill(PAGE, kept).partition("Differences")[2]
    one = summarise(records(1))
    assert {spread.deviation for spread in one.scores.values()} == {0.0}


def test_any_digit_changed_by_hand_is_found(kept: Path) -> None:
    page = results.fill(PAGE, kept)
    assert results.fill(page, kept) == page
    start, end = page.index("cpu -->") + 7, page.index("<!-- end")
    places = [m.start() for m in re.finditer(r"\d", page) if start < m.start() < end]
    for place in places[:: len(places) // 20]:
        digit = str((int(page[place]) + 1) % 10)
        edited = page[:place] + digit + page[place + 1 :]
        assert results.fill(edited, kept) != edited


def test_every_table_of_results_is_that_of_its_records() -> None:
    text = (ROOT / "RESULTS.md").read_text("utf-8")
    assert results.fill(text) == text, "run: python -m tools.experiments tables"


def test_committed_records_are_of_the_commands_in_the_plan() -> None:
    for table, preset in [(name, p) for name in TABLES for p in TABLES[name].presets]:
        for kept in keep.read(keep.RECORDS / f"{table}-{preset}.json"):
            cells = plan(table, preset, [kept["about"].get("seed", 0)])[1]
            (cell,) = (cell for cell in cells if cell.name == kept["name"])
            assert kept["commands"] == [list(line) for line in cell.commands], kept["name"]
            assert kept["about"] == cell.about


def test_measurements_made_once_are_written_as_they_stand(tmp_path: Path) -> None:
    columns = [["codec", "{}"], ["bpp", "{:.4f} ({:+.1f} %)"], ["dB", "{:.2f}"]]
    rows_ = [["ours", [0.0978, -0.5], 25.54], ["theirs", [0.1, 1.7], "cannot"]]
    (tmp_path / "once.json").write_text(json.dumps({"columns": columns, "rows": rows_}))
    page = results.fill("  <!-- table: once -->\n  <!-- end -->\n", tmp_path)
    assert page.splitlines()[1:-1] == [
        "  | codec  |             bpp |     dB |",
        "  |:-------|----------------:|-------:|",
        "  | ours   | 0.0978 (-0.5 %) |  25.54 |",
        "  | theirs | 0.1000 (+1.7 %) | cannot |",
    ]
    assert results.fill(page, tmp_path) == page


def test_an_experiment_that_was_not_run_says_so(tmp_path: Path) -> None:
    assert "-->\nNot run yet.\n<!-- end" in results.fill(PAGE, tmp_path)


def test_markers_without_records_or_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no records for the marker of table 'rsscn8'"):
        results.fill(PAGE.replace("rsscn7-cpu", "rsscn8"), tmp_path)
    with pytest.raises(ValueError, match="expected <!-- end --> after every"):
        results.fill(PAGE.replace("<!-- end -->", ""), tmp_path)


def test_records_are_kept_and_newer_ones_take_their_place(tmp_path: Path) -> None:
    cell, other = plan("rsscn7", "cpu", [0, 1])[0][:2]
    folder, file = tmp_path / "out", tmp_path / "kept.json"
    folder.mkdir()
    for name, value in ((cell, 0.5), (other, 0.6), (cell, 0.7)):
        made = record(name, {"test/top1": value})
        (folder / f"{name.name}.json").write_text(json.dumps(made))
        keep.keep([cell, other], folder, file)
    kept = {r["name"]: r["metrics"]["test/top1"] for r in keep.read(file)}
    assert kept == {cell.name: 0.7, other.name: 0.6}
    assert len(file.read_text().splitlines()) == 4


def test_a_record_that_names_this_machine_is_not_kept(tmp_path: Path) -> None:
    for place in (str(tmp_path / "x"), "~/data", "/somewhere"):
        cell = Cell("x", {}, (("eval", place),))
        (tmp_path / "x.json").write_text(json.dumps(record(cell, {})))
        with pytest.raises(ValueError, match=r"names a place of this machine.*CDINFER_TEST_DATA"):
            keep.keep([cell], tmp_path, tmp_path / "kept.json")


def test_damaged_files_of_records_are_named(tmp_path: Path) -> None:
    for text in ("{", "[1]", '[{"name": 1}]'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged .*x\.json"):
            keep.read(tmp_path / "x.json")
