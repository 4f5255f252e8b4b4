"""Rows of pictures -> rows of curves: means, curves read at equal bytes, BD-rates.

``means`` gives a row a point: the fields of ``rd.run`` as means over its pictures (times:
medians), the same with ``_worst`` behind them as means over the worst 5 % of the pictures in
that field (two of 24), and

    pictures     how many there were
    exact        those that came back bit for bit, which are left out of the mean of ``psnr``

The rate of a point is the mean of its pictures' bpp. Curves are read as ``bd.py`` says.
"""

import math
import statistics
from collections.abc import Sequence

from cdinfer.studies.bd import Curve, bd_rate, decibel, quality_at, rate_at
from cdinfer.studies.records import Row

#: Where curves are read for comparison, in bits per pixel.
RATES = (0.0983, 0.2, 0.33, 0.635, 1.0)

QUALITIES = ("psnr", "ms_ssim")
WORST = 0.05

#: Fields of a mean row, and whether the largest value is the worst.
FIELDS = {
    "bytes": True,
    "bpp": True,
    "psnr": False,
    "ssim": False,
    "ms_ssim": False,
    "encode_ms": True,
    "decode_ms": True,
}


def means(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each codec and setting, in the order they come; see the module."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["codec"], row["setting"]), []).append(row)
    return [_mean(codec, setting, group) for (codec, setting), group in groups.items()]


def _mean(codec: str, setting: str, rows: list[Row]) -> Row:
    exact = sum(row["psnr"] is None for row in rows)
    result: Row = {"codec": codec, "setting": setting, "pictures": len(rows), "exact": exact}
    for field, largest in FIELDS.items():
        values = sorted((r[field] for r in rows if r[field] is not None), reverse=largest)
        middle = statistics.median if field.endswith("_ms") else statistics.fmean
        result[field] = middle(values) if values else None
        worst = values[: math.ceil(WORST * len(values))]
        result[f"{field}_worst"] = statistics.fmean(worst) if worst else None
    return result


def curves(mean_rows: Sequence[Row], quality: str) -> dict[str, Curve]:
    """Return each codec's points ``(bpp, quality)``; ``quality`` is a field of a mean row."""
    found: dict[str, Curve] = {}
    for row in mean_rows:
        points = found.setdefault(row["codec"], [])
        if row[quality] is not None:
            points.append((row["bpp"], row[quality]))
    return found


def at_rates(mean_rows: Sequence[Row], rates: Sequence[float] = RATES) -> list[Row]:
    """Return ``codec, bpp, psnr, ms_ssim`` of every curve read at ``rates``; null outside it.

    Codecs of fewer than two points are no curves.
    """
    read = {quality: curves(mean_rows, quality) for quality in QUALITIES}
    return [
        {"codec": codec, "bpp": rate}
        | {quality: quality_at(read[quality][codec], rate) for quality in QUALITIES}
        for codec, curve in read["psnr"].items()
        if len(curve) > 1
        for rate in rates
    ]


def at_equal_bytes(mean_rows: Sequence[Row], ours: Sequence[str]) -> list[Row]:
    """Return how the points of ``ours`` compare with every other curve at their own mean rate.

    Rows are ``codec, setting, bpp, psnr, ms_ssim``; ``rival``, a curve; ``rival_psnr``,
    ``rival_ms_ssim``, read off it at ``bpp``; ``psnr_gain``, ``ms_ssim_gain``, ours less the
    rival's; ``bytes_at_psnr``, ``bytes_at_ms_ssim``, our bytes over those that the rival's curve
    needs for that quality, less one (-0.1: we need a tenth less). Null outside a rival's points.
    Codecs of fewer than two points are no rivals.
    """
    read = {quality: curves(mean_rows, quality) for quality in QUALITIES}
    rivals = [codec for codec, curve in read["psnr"].items() if len(curve) > 1]
    rows = []
    for mean in [row for row in mean_rows if row["codec"] in ours]:
        for rival in [codec for codec in rivals if codec != mean["codec"]]:
            row = {key: mean[key] for key in ("codec", "setting", "bpp", *QUALITIES)}
            row["rival"] = rival
            for quality in QUALITIES:
                curve, own = read[quality][rival], mean[quality]
                there = quality_at(curve, mean["bpp"])
                rate = None if own is None else rate_at(curve, own)
                row[f"rival_{quality}"] = there
                both = own is not None and there is not None
                row[f"{quality}_gain"] = own - there if both else None
                row[f"bytes_at_{quality}"] = None if rate is None else mean["bpp"] / rate - 1
            rows.append(row)
    return rows


def bd_rates(mean_rows: Sequence[Row], anchor: str) -> list[Row]:
    """Return ``codec, anchor, bd_psnr, bd_ms_ssim`` of every other curve.

    Shares of the anchor's bits, -0.2 for a fifth less; MS-SSIM in decibels. Null where a curve
    has too few points or no quality in common; no rows without the anchor.
    """
    psnr = curves(mean_rows, "psnr")
    ms_ssim = {
        codec: [(rate, decibel(value)) for rate, value in curve if value < 1]
        for codec, curve in curves(mean_rows, "ms_ssim").items()
    }
    return [
        {
            "codec": codec,
            "anchor": anchor,
            "bd_psnr": bd_rate(psnr[codec], psnr[anchor]),
            "bd_ms_ssim": bd_rate(ms_ssim[codec], ms_ssim[anchor]),
        }
        for codec in psnr
        if anchor in psnr and codec != anchor
    ]
