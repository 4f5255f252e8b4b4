import math
from typing import Any

import numpy as np
import pytest

from cdinfer.studies.bd import bd_rate, decibel
from cdinfer.studies.rd_tables import at_equal_bytes, at_rates, bd_rates, means

Row = dict[str, Any]


def picture(codec: str, setting: str, number: int, bpp: float, psnr: float | None) -> Row:
    ms_ssim = None if psnr is None else 1 - 10 ** (-psnr / 20)
    return {
        "codec": codec, "setting": setting, "picture": f"{number}.png", "bytes": round(1000 * bpp),
        "bpp": bpp, "psnr": psnr, "ssim": 0.9 - number / 100, "ms_ssim": ms_ssim,
        "encode_ms": 1.0 + number**2, "decode_ms": 2.0,
    }  # fmt: skip


def curve(codec: str, points: list[tuple[float, float]]) -> list[Row]:
    return [picture(codec, f"s{i}", 0, *point) for i, point in enumerate(points)]


JPEG = [(0.2, 24.0), (0.4, 28.0), (0.7, 30.5), (1.0, 32.0), (2.0, 36.0)]
OURS = [(0.1, 26.0), (0.2, 28.0), (0.35, 30.0), (0.6, 32.5), (1.1, 35.0)]


def test_means_and_worst_shares_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    bpp, psnr = rng.uniform(0.1, 1, 24), rng.uniform(20, 40, 24)
    rows = [picture("jpeg", "q5", i, float(bpp[i]), float(psnr[i])) for i in range(24)]
    (mean,) = means(rows)
    assert (mean["codec"], mean["setting"], mean["pictures"], mean["exact"]) == (
        "jpeg",
        "q5",
        24,
        0,
    )
    assert mean["bpp"] == pytest.approx(bpp.mean())
    assert mean["psnr"] == pytest.approx(psnr.mean())
    assert mean["psnr_worst"] == pytest.approx(np.sort(psnr)[:2].mean())
    assert mean["bpp_worst"] == pytest.approx(np.sort(bpp)[-2:].mean())
    assert mean["encode_ms"] == pytest.approx(np.median([1.0 + i**2 for i in range(24)]))
    assert mean["encode_ms_worst"] == pytest.approx((1 + 23**2 + 1 + 22**2) / 2)


def test_pictures_without_a_number_are_left_out_of_its_mean_and_counted() -> None:
    rows = [picture("x", "s", 0, 0.5, None), picture("x", "s", 1, 0.7, 30.0)]
    (mean,) = means(rows)
    assert (mean["pictures"], mean["exact"], mean["psnr"]) == (2, 1, 30.0)
    assert mean["bpp"] == pytest.approx(0.6)
    (mean,) = means(rows[:1])
    assert mean["psnr"] is mean["psnr_worst"] is mean["ms_ssim"] is None


def test_settings_stay_in_their_order_and_apart() -> None:
    rows = [*curve("webp", OURS), *curve("jpeg", JPEG)]
    assert [(m["codec"], m["setting"]) for m in means(rows)] == [
        (codec, f"s{i}") for codec in ("webp", "jpeg") for i in range(5)
    ]


def test_rivals_are_read_at_our_own_rate() -> None:
    rows = at_equal_bytes(means([*curve("jpeg", JPEG), *curve("cae", OURS)]), ["cae"])
    assert [row["bpp"] for row in rows] == [rate for rate, _ in OURS]
    assert {row["rival"] for row in rows} == {"jpeg"}
    below, on_a_point, between = rows[:3]
    assert below["rival_psnr"] is below["psnr_gain"] is None
    assert (on_a_point["rival_psnr"], on_a_point["psnr_gain"]) == (24.0, 4.0)
    share = math.log(0.35 / 0.2) / math.log(0.4 / 0.2)
    assert between["rival_psnr"] == pytest.approx(24 + 4 * share)
    assert between["psnr_gain"] == pytest.approx(30 - 24 - 4 * share)
    assert on_a_point["bytes_at_psnr"] == pytest.approx(0.2 / 0.4 - 1)  # JPEG has 28 dB at 0.4
    assert on_a_point["bytes_at_ms_ssim"] == pytest.approx(0.2 / 0.4 - 1)
    assert between["ms_ssim_gain"] == between["ms_ssim"] - between["rival_ms_ssim"] > 0


def test_our_codecs_are_rivals_of_each_other_and_single_points_of_none() -> None:
    rows = [*curve("cae", OURS), *curve("lite", OURS), *curve("run", OURS[:1])]
    pairs = {(row["codec"], row["rival"]) for row in at_equal_bytes(means(rows), ["cae", "run"])}
    assert pairs == {("cae", "lite"), ("run", "cae"), ("run", "lite")}


def test_curves_are_read_at_equal_rates() -> None:
    rows = at_rates(means([*curve("jpeg", JPEG), *curve("run", OURS[:1])]), (0.1, 0.2, 1.0))
    assert [(row["codec"], row["bpp"], row["psnr"]) for row in rows] == [
        ("jpeg", 0.1, None), ("jpeg", 0.2, 24.0), ("jpeg", 1.0, 32.0),
    ]  # fmt: skip


def test_bd_rates_are_against_the_anchor() -> None:
    rows = means([*curve("jpeg", JPEG), *curve("cae", OURS), *curve("few", OURS[:4])])
    cae, few = bd_rates(rows, "jpeg")
    assert cae["bd_psnr"] == bd_rate(OURS, JPEG) < -0.3
    in_db = [[(r, decibel(1 - 10 ** (-q / 20))) for r, q in c] for c in (OURS, JPEG)]
    assert cae["bd_ms_ssim"] == pytest.approx(bd_rate(*in_db))
    assert few == {"codec": "few", "anchor": "jpeg", "bd_psnr": None, "bd_ms_ssim": None}
    assert bd_rates(rows, "webp") == []
