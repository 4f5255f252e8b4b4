from pathlib import Path

import pytest

from cdinfer.studies.bench import jpeg, latency
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS, NOT_INSTALLED


def test_every_step_meets_jpeg(tiny_codec: Path, few: Pictures) -> None:
    rows = latency.run(few, [tiny_codec], 1, lambda title: None)
    assert all(tuple(row) == FIELDS for row in rows)
    assert len(rows) == 3 * len(jpeg.DECODERS) + len(latency.ENCODERS)
    assert all((row["peer"] is None) == (NOT_INSTALLED in row["case"]) for row in rows)
    assert all(row["ours"] > 0 and row["ideal"] > 0 for row in rows)


@pytest.mark.usefixtures("no_peers")
def test_pillow_is_always_there(tiny_codec: Path, few: Pictures) -> None:
    rows = latency.run(few, [tiny_codec], 1, lambda title: None)
    assert sum(NOT_INSTALLED in row["case"] for row in rows) == 3 * 2 + 1
