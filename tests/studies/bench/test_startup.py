from pathlib import Path

import pytest

from cdinfer.studies.bench import startup
from cdinfer.studies.bench.pictures import Pictures


@pytest.mark.slow
def test_whole_processes_are_timed_on_both_clocks(tiny_codec: Path, few: Pictures) -> None:
    rows = startup.run(few, [tiny_codec], 1, lambda title: None)
    assert [row["case"].rsplit(", ", 1)[1] for row in rows] == ["wall time", "CPU time"] * 2
    assert all(row["ours"] > 0 and row["ideal"] > 0.001 for row in rows)


def test_a_process_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match=r"'-c 1/0' failed: .*ZeroDivisionError"):
        startup._process(["-c", "1/0"]).call()


def test_help_is_timed_without_a_codec(few: Pictures) -> None:
    rows = startup.run(few, [], 1, lambda title: None)
    assert [row["case"] for row in rows] == [
        "cdinfer --help, wall time", "cdinfer --help, CPU time",
    ]  # fmt: skip
    assert all(row["ours"] > 0 < row["ideal"] for row in rows)
