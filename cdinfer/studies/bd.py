"""Reading rate-distortion curves: at a rate, at a quality, and on average (Bjontegaard).

A curve is points ``(rate, quality)``; between them quality is linear in the logarithm of the
rate. Nothing is read outside the points of a curve.

References:
    Bjontegaard, Calculation of average PSNR differences between RD-curves, VCEG-M33, 2001
        (the average over the common range of quality; there through one cubic).
    Fritsch and Carlson, Monotone piecewise cubic interpolation, 1980 (PCHIP, through scipy): what
        is integrated here, as it passes through every point and never overshoots.
"""

import itertools
import math
from collections.abc import Iterable

Curve = list[tuple[float, float]]

#: Fewer points have no BD-rate: it would say more about the interpolation than about the codecs.
BD_POINTS = 5


def quality_at(curve: Curve, rate: float) -> float | None:
    """Return the quality of a curve at a rate, or ``None`` outside its points.

    Example:
        >>> quality_at([(0.25, 28.0), (1.0, 34.0)], 0.5)
        31.0
    """
    return _read([(math.log(r), quality) for r, quality in sorted(curve)], math.log(rate))


def rate_at(curve: Curve, quality: float) -> float | None:
    """Return the rate that a curve needs for a quality, or ``None`` outside its points.

    Example:
        >>> rate_at([(0.25, 28.0), (1.0, 34.0)], 31.0)
        0.5
    """
    log_rate = _read([(value, math.log(rate)) for rate, value in front(curve)], quality)
    return None if log_rate is None else math.exp(log_rate)


def bd_rate(test: Curve, anchor: Curve) -> float | None:
    """Return how many more bits ``test`` needs than ``anchor`` for the same quality.

    -0.2 means a fifth less, on average over the qualities that both reach (of the logarithm of
    the rate). ``None`` where either has fewer than ``BD_POINTS`` points that improve with the
    rate, or no quality is common to both.

    Example:
        >>> jpeg = [(0.2, 24.0), (0.4, 28.0), (0.7, 30.5), (1.0, 32.0), (2.0, 36.0)]
        >>> half = [(rate / 2, quality) for rate, quality in jpeg]
        >>> round(bd_rate(half, jpeg), 6)
        -0.5
    """
    from scipy.interpolate import PchipInterpolator  # here: a third of a second

    fronts = [front(test), front(anchor)]
    if min(map(len, fronts)) < BD_POINTS:
        return None
    low = max(curve[0][1] for curve in fronts)
    high = min(curve[-1][1] for curve in fronts)
    if low >= high:
        return None
    areas = [
        float(
            PchipInterpolator(
                [quality for _, quality in curve], [math.log(rate) for rate, _ in curve]
            ).integrate(low, high)
        )
        for curve in fronts
    ]
    return math.exp((areas[0] - areas[1]) / (high - low)) - 1


def front(curve: Iterable[tuple[float, float]]) -> Curve:
    """Return the points, by rising rate, that are better than every one of lower rate.

    Example:
        >>> front([(0.5, 30.0), (0.2, 25.0), (0.6, 29.0)])
        [(0.2, 25.0), (0.5, 30.0)]
    """
    kept: Curve = []
    for rate, quality in sorted(curve, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept


def decibel(ms_ssim: float) -> float:
    """Return MS-SSIM on a scale of decibels, on which curves are about as straight as PSNR's.

    Example:
        >>> round(decibel(0.99), 9)
        20.0
    """
    return -10 * math.log10(1 - ms_ssim) if ms_ssim < 1 else math.inf


def _read(points: Curve, at: float) -> float | None:
    """Interpolate ``points``, sorted by their first value, at ``at``; ``None`` outside."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= at <= x1:
            return y0 if x0 == x1 else y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return points[0][1] if len(points) == 1 and points[0][0] == at else None
