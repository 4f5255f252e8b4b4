from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from cdinfer.codecs import load_codec
from cdinfer.studies import compute, compute_tables
from cdinfer.studies.networks import OURS
from cdinfer.studies.records import Row


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return compute.run(size=(224, 224), rounds=0)


def pick(rows: list[Row], table: str, task: str, name: str) -> Row:
    (row,) = [r for r in rows if (r["table"], r["task"], r.get("name")) == (table, task, name)]
    return row


@pytest.mark.parametrize(
    ("name", "published"),
    [  # Torfason et al., table 1, are v1; the default blocks of ours cost a little more
        ("ResNet-50", 3.86),
        ("ResNet-71", 5.38),
        ("cResNet-39", 2.95),
        ("cResNet-51", 3.83),
        ("cResNet-72", 5.36),
    ],
)
def test_networks_cost_what_was_published_and_the_stride_of_the_blocks(
    name: str, published: float, rows: list[Row]
) -> None:
    gmac = pick(rows, "parts", "cls", name)["gmac"]
    assert published < gmac < published + 0.25


def test_torch_counts_the_same_of_a_picture_that_is_padded() -> None:
    rows = compute.run(size=(57, 90), rounds=0)
    codec = load_codec("cae", 0.33)
    x, y = torch.rand(1, 3, 64, 96), torch.rand(1, 16, 8, 12)
    for name, call in (
        ("cae encoder", lambda: codec.g_a(x)),
        ("cae decoder", lambda: codec.g_s(y)),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        row = pick(rows, "parts", "codec", name)
        assert 2e9 * row["gmac"] == pytest.approx(counter.get_total_flops(), rel=1e-6)
    net = resnet50(weights=None).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x[..., :57, :90])
    row = pick(rows, "parts", "cls", "ResNet-50")
    assert 2e9 * row["gmac"] == pytest.approx(counter.get_total_flops(), rel=1e-6)
    assert 1e6 * row["mparam"] == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("task", "name", "gmac", "mparam"),
    [
        ("cls", "ResNet-50", 2048 * 1000 / 1e9, 2049 * 1000 / 1e6),
        (
            "seg",
            "ResNet-50-d, ASPP",
            28**2 * 4 * 9 * 2048 * 21 / 1e9,
            4 * 21 * (9 * 2048 + 1) / 1e6,
        ),
    ],
)
def test_heads_are_counted_apart(
    task: str, name: str, gmac: float, mparam: float, rows: list[Row]
) -> None:
    row = pick(rows, "parts", task, name)
    assert row["head_gmac"] == pytest.approx(gmac)
    assert row["head_mparam"] == pytest.approx(mparam)
    assert pick(rows, "parts", "codec", "cae decoder")["head_gmac"] is None


@pytest.mark.parametrize(
    ("name", "published"),
    [("MobileNetV3-Large", 0.217), ("ConvNeXt-Tiny", 4.456)],  # torchvision's tables
)
def test_baselines_cost_what_their_authors_say(
    name: str, published: float, rows: list[Row]
) -> None:
    row = pick(rows, "parts", "cls", name)
    assert row["gmac"] == pytest.approx(published, rel=0.02)


def test_our_segmenter_costs_less_than_half_of_the_one_on_pixels(rows: list[Row]) -> None:
    ours, theirs = (pick(rows, "parts", "seg", name) for name in (OURS, "ResNet-50-d, ASPP"))
    assert 2 * ours["gmac"] < theirs["gmac"]


def test_decoding_first_costs_the_decoder_more(rows: list[Row]) -> None:
    decoder = pick(rows, "parts", "codec", "cae decoder")["gmac"]
    first = pick(rows, "paths", "cls", "bits + decoder + ResNet-50")["gmac"]
    assert first - pick(rows, "paths", "cls", "JPEG + ResNet-50")["gmac"] == pytest.approx(decoder)


@pytest.mark.parametrize(
    ("once", "each", "rival", "expected"),
    [(10, 1, 2, 11), (10, 0, 3, 4), (0.1, 1, 2, 1), (1, 2, 2, None), (1, 3, 2, None)],
)
def test_passes_are_the_least_that_undercut(
    once: float, each: float, rival: float, expected: int | None
) -> None:
    k = compute.passes(once, each, rival)
    assert k == expected
    if k is not None:
        assert once + k * each < k * rival
        assert once + (k - 1) * each >= (k - 1) * rival


@pytest.mark.slow
def test_nothing_is_timed_without_rounds_and_everything_with(rows: list[Row]) -> None:
    assert all(row["ms"] is None for row in rows if row["table"] != "break_even")
    timed = compute.run(size=(16, 24), codecs=("cae-lite",), rounds=1)
    assert all(row["ms"] > 0 for row in timed if row["table"] != "break_even")


def test_tables_are_written(rows: list[Row], tmp_path: Path) -> None:
    compute_tables.write(tmp_path / "out", rows)
    text = (tmp_path / "out" / "compute.md").read_text()
    assert "| cae encoder " in text
    assert len((tmp_path / "out" / "parts.csv").read_text().splitlines()) == 22
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "compute.md",
        "parts.csv",
        "paths.csv",
        "break_even.csv",
    }
