from pathlib import Path

import pytest
import torch

from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import contest, fronts, inference
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS, NOT_INSTALLED
from cdinfer.studies.records import Row


def bench(codec: Path, pictures: Pictures) -> list[Row]:
    return inference.run(pictures, [codec], 1, lambda title: None, engines=["torch"], width=0.0625)


@pytest.fixture(scope="module")
def rows(tiny_codec: Path, few: Pictures) -> list[Row]:
    return bench(tiny_codec, few)


def test_ours_meet_every_peer_at_once_and_one_by_one(rows: list[Row]) -> None:
    assert all(tuple(row) == FIELDS for row in rows)
    pairs = len(inference.OURS) * len(fronts.PEERS)
    assert len(rows) == 2 * 2 * pairs  # two precisions, two sizes of batch
    for batch in (1, 5):  # there are no 16
        assert sum(f"batch {batch}, " in row["case"] for row in rows) == 2 * pairs
    for row in rows:
        assert (row["peer"] is None) == (NOT_INSTALLED in row["case"])
        assert row["ours"] > 0


def test_the_ideal_is_the_time_that_macs_allow(
    rows: list[Row], tiny_codec: Path, few: Pictures
) -> None:
    pair = "cResNet-51 on latents vs ResNet-50 on decoded"
    ours, peers = inference.enter_all(read_codec(tiny_codec), few, 0.0625)
    assert peers["decoded"] is not None
    macs = peers["decoded"].macs / ours[1].macs
    for row in rows:
        if pair in row["case"]:
            assert f"({macs:.2f}x the MACs)" in row["case"]
            assert row["ideal"] == pytest.approx(row["peer"] / macs)


@pytest.mark.usefixtures("no_peers")
def test_peers_that_are_not_installed_are_named(tiny_codec: Path, few: Pictures) -> None:
    missing = [row["case"] for row in bench(tiny_codec, few) if row["peer"] is None]
    assert len(missing) == 2 * 2 * 2 * 2
    assert sum(f"vs JPEG, simplejpeg ({NOT_INSTALLED})" in case for case in missing) == 8
    assert sum(f"vs {fronts.COMPRESSAI} ({NOT_INSTALLED})" in case for case in missing) == 8


def test_answers_are_those_of_the_networks_themselves(tiny_codec: Path, few: Pictures) -> None:
    codec = read_codec(tiny_codec)
    ours, peers = inference.enter_all(codec, few, 0.0625)
    there = [*ours, peers["decoded"], peers["JPEG, Pillow"]]
    calls = contest.prepare_all(there, "torch", "fp32")
    assert list(calls) == [
        "cResNet-39 on latents", "cResNet-51 on latents", "ResNet-50 on decoded",
        "ResNet-50 on JPEG, Pillow",
    ]  # fmt: skip
    for entry, call in zip(there, calls.values(), strict=True):
        front = entry.front
        with torch.inference_mode():
            x = front.read(front.files)
            x = x if front.decoder is None else front.decoder(x)
            assert torch.equal(call(front.files), entry.net(x).argmax(1))
