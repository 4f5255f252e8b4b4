import json
from pathlib import Path
from typing import Any

import pytest

from cdinfer.codecs import load_codec
from cdinfer.models import count_macs
from cdinfer.studies import compute_tables, tradeoff
from cdinfer.studies.records import Row

SET = {"bytes_before": 40_000, "bytes_after": 4_000, "pictures": 10}


def record(name: str, metrics: dict[str, Any], **about: object) -> Row:
    return {
        "name": name,
        "about": {"table": "set", "preset": "cpu", "bpp": None, **about},
        "metrics": metrics,
        "commands": [["train", "--data.crop", "64"]],
    }


def training(arm: str, seed: int, top1: float, macs: int, data: str | None = None) -> Row:
    bpp = None if data is None else 0.33
    metrics = {"macs": macs, "test/top1": top1}
    return record(f"{arm}-{seed}", metrics, arm=arm, seed=seed, data=data, bpp=bpp)


RECORDS = [
    record("set-0.33", SET, kind="set"),
    record("as-webp-0.33", {"bytes": 5_000, "pictures": 10}, kind="as-webp"),
    training("latents", 0, 0.6, 10**9, "set-0.33"),
    training("latents", 1, 0.7, 10**9, "set-0.33"),
    training("decoded", 0, 0.7, 10**9, "as-decoded-0.33"),
    training("webp", 0, 0.64, 10**9, "as-webp-0.33"),
    training("original", 0, 0.8, 2 * 10**9),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "set-cpu.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_arms_are_means_over_seeds_with_what_they_store_and_compute(file: Path) -> None:
    latents, decoded, webp, original = tradeoff.run([file])
    assert latents == {
        "table": "accuracy", "data": "set, cpu", "arm": "latents", "bpp": 0.33,
        "score": pytest.approx(0.65), "metric": "top1", "seeds": 2, "gmac": 1.0, "bytes": 400.0,
        "best_by_gmac": True, "best_by_bytes": False,
    }  # fmt: skip
    assert (decoded["bytes"], webp["bytes"], original["bytes"]) == (400, 500, 4000)
    codec = load_codec("cae", 0.33)
    assert decoded["gmac"] == 1 + count_macs(codec.g_s, (1, 16, 8, 8)) / 1e9
    assert [r["best_by_gmac"] for r in (decoded, webp, original)] == [True, False, True]
    assert [r["best_by_bytes"] for r in (decoded, webp, original)] == [True, False, True]


def test_a_folder_of_cells_is_read_as_a_list_of_records(file: Path, tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    cells.mkdir()
    for one in RECORDS:
        (cells / f"{one['name']}.json").write_text(json.dumps(one))
    key = lambda row: row["arm"]  # noqa: E731
    assert sorted(tradeoff.run([cells]), key=key) == sorted(tradeoff.run([file]), key=key)


def test_equals_are_both_unbeaten() -> None:
    assert tradeoff.front([(1.0, 0.5), (1.0, 0.5), (1.0, 0.4)]) == [True, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected records of cells, got JSONDecodeError"),
        ("[1]", "expected records of cells, got TypeError"),
        ('[{"about": {}}]', r"expected records of cells, got KeyError\('metrics'\)"),
        ('[{"about": {"arm": "a"}, "metrics": {}}]', "a record lacks what trainings have: KeyErr"),
        ("[]", "expected records of trainings, with an arm; got none"),
        (
            json.dumps([record("x", {"macs": 1}, arm="a")]),
            "the record of x has no score, test/top1",
        ),
    ],
)
def test_damaged_records_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        tradeoff.run([path])
    assert "\n" not in str(error.value)


def test_no_such_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file or folder of records; check the path"):
        tradeoff.run([tmp_path / "nothing.json"])


def test_tables_and_curves_are_written(file: Path, tmp_path: Path) -> None:
    rows = tradeoff.run([file])
    compute_tables.write(tmp_path / "out", rows)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "compute.md", "accuracy.csv", "accuracy-gmac-set-cpu.svg", "accuracy-bytes-set-cpu.svg",
    }  # fmt: skip
    text = (tmp_path / "out" / "compute.md").read_text()
    assert "| set, cpu |     webp | 0.33 | 64.00% | top1 |     1 | 1.0000 |        - |" in text
    svg = (tmp_path / "out" / "accuracy-bytes-set-cpu.svg").read_text()
    assert "latents 0.33" in svg
    assert "original" in svg
