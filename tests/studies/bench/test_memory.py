import subprocess
import sys
from pathlib import Path

import pytest

from cdinfer.studies.bench import masks, memory
from cdinfer.studies.bench.memory import Case
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS

SMALL = (
    Case("class", ("cResNet-39",), "ResNet-50", 2, width=0.0625),
    Case("mask", masks.NETWORKS[:1], masks.PEER, 1, (48, 64), 5, 0.0625),
    Case("train", ("cResNet-39",), "ResNet-50", 2, width=0.0625),
)


@pytest.mark.slow
def test_every_process_holds_more_than_one_that_does_nothing(
    tiny_codec: Path, few: Pictures
) -> None:
    rows = memory.run(few, [tiny_codec], 1, lambda title: None, SMALL)
    assert all(tuple(row) == FIELDS for row in rows)
    assert [row["case"] for row in rows] == [
        f"{what}, cae 0.33, {ours} on latents vs {theirs} on {front}"
        for what, ours, theirs in (
            ("bytes to class, batch 2", "cResNet-39", "ResNet-50"),
            ("bytes to mask, 64x48, batch 1", masks.NETWORKS[0], masks.PEER),
            ("a training step, batch 2, width 0.0625", "cResNet-39", "ResNet-50"),
        )
        for front in memory.PEERS
    ]
    for row in rows:
        assert row["ours"] > row["ideal"] > 100
        assert row["peer"] > row["ideal"]


@pytest.mark.slow
def test_a_peak_is_that_of_the_process_alone() -> None:
    ballast = b"1" * 2**28  # parents count where processes ask the usual way
    asks = "from cdinfer.studies.bench.memory import _peak; a = _peak(); x = b'1' * 2**27; "
    said = subprocess.check_output([sys.executable, "-c", f"{asks}print(_peak() - a)"], text=True)
    assert 100 < float(said) < 160
    assert len(ballast) == 2**28


@pytest.mark.slow
def test_a_process_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match=r"the bench memory: ResNet-50 on JPEG: .*TypeError"):
        memory._ask({"network": "ResNet-50", "front": "JPEG"})
