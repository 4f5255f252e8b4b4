"""The curves are published ones of Kodak: CompressAI's results, read at several rates."""

import math

import numpy as np
import pytest
from scipy.integrate import trapezoid

from cdinfer.studies.bd import Curve, bd_rate, decibel, front, quality_at, rate_at

JPEG = [(0.221, 23.78), (0.327, 26.58), (0.508, 29.04), (0.729, 30.90), (0.964, 32.40),
        (1.369, 34.39), (1.859, 36.33)]  # fmt: skip
HYPERPRIOR = [(0.131, 27.58), (0.209, 29.20), (0.320, 30.97), (0.478, 32.84), (0.669, 34.53),
              (0.939, 36.74), (1.259, 38.58)]  # fmt: skip
WEBP = [(0.234, 28.33), (0.353, 29.82), (0.513, 31.44), (0.722, 33.24), (0.998, 35.10),
        (1.520, 37.78)]  # fmt: skip


def scaled(curve: Curve, factor: float) -> Curve:
    return [(rate * factor, quality) for rate, quality in curve]


def area_by_trapezoids(curve: Curve, low: float, high: float) -> float:
    """Integrate the log rate over quality, straight from point to point."""
    rates, qualities = np.array(curve).T
    at = np.linspace(low, high, 20_001)
    return float(trapezoid(np.interp(at, qualities, np.log(rates)), at))


def area_by_one_cubic(curve: Curve, low: float, high: float) -> float:
    """Integrate as VCEG-M33 does: one cubic through all points."""
    rates, qualities = np.array(curve).T
    integral = np.polyint(np.polyfit(qualities, np.log(rates), 3))
    return float(np.polyval(integral, high) - np.polyval(integral, low))


@pytest.mark.parametrize("factor", [0.25, 0.8, 1.0, 3.0])
def test_a_constant_factor_is_the_bd_rate(factor: float) -> None:
    assert bd_rate(scaled(JPEG, factor), JPEG) == pytest.approx(factor - 1, abs=1e-9)


@pytest.mark.parametrize("area", [area_by_trapezoids, area_by_one_cubic])
@pytest.mark.parametrize(("test", "anchor"), [(HYPERPRIOR, JPEG), (WEBP, JPEG), (HYPERPRIOR, WEBP)])
def test_bd_rate_is_that_of_an_independent_integration(test, anchor, area) -> None:
    low, high = max(test[0][1], anchor[0][1]), min(test[-1][1], anchor[-1][1])
    expected = math.exp((area(test, low, high) - area(anchor, low, high)) / (high - low)) - 1
    ours = bd_rate(test, anchor)
    assert ours == pytest.approx(expected, abs=0.01)
    assert ours < -0.1


def test_exchanging_the_curves_inverts_the_factor() -> None:
    there, back = bd_rate(HYPERPRIOR, JPEG), bd_rate(JPEG, HYPERPRIOR)
    assert (1 + there) * (1 + back) == pytest.approx(1)


@pytest.mark.parametrize("curve", [JPEG[:4], [], [(1.0, 30.0)] * 6, scaled(JPEG, 1)[::2]])
def test_fewer_than_five_points_have_no_bd_rate(curve: Curve) -> None:
    assert bd_rate(curve, HYPERPRIOR) is None
    assert bd_rate(HYPERPRIOR, curve) is None


def test_curves_without_a_common_quality_have_no_bd_rate() -> None:
    assert bd_rate([(rate, quality + 40) for rate, quality in JPEG], JPEG) is None


def test_points_that_do_not_improve_are_left_out() -> None:
    worse = [*JPEG, (0.6, 27.0), (2.5, 36.0), (0.327, 20.0)]
    assert front(worse) == JPEG
    assert bd_rate(HYPERPRIOR, worse) == bd_rate(HYPERPRIOR, JPEG)


# The figures that FACTS.md gives for JPEG and WebP at equal rate, between the points above


@pytest.mark.parametrize(("curve", "rate", "expected"), [(JPEG, 0.33, 26.62), (WEBP, 0.635, 32.57)])
def test_curves_are_read_between_their_points(curve: Curve, rate: float, expected: float) -> None:
    rates, qualities = np.array(curve).T
    assert quality_at(curve, rate) == pytest.approx(
        np.interp(np.log(rate), np.log(rates), qualities)
    )
    assert quality_at(curve, rate) == pytest.approx(expected, abs=0.03)
    assert quality_at(curve[::-1], rate) == quality_at(curve, rate)


def test_reading_a_rate_undoes_reading_a_quality() -> None:
    for rate in (0.221, 0.33, 1.0, 1.859):
        assert rate_at(JPEG, quality_at(JPEG, rate)) == pytest.approx(rate)


@pytest.mark.parametrize("rate", [0.2, 1.9])
def test_nothing_is_read_outside_the_points(rate: float) -> None:
    assert quality_at(JPEG, rate) is None
    assert quality_at([], rate) is None
    assert quality_at([(0.5, 30.0)], rate) is None
    assert rate_at(JPEG, 23.0) is rate_at(JPEG, 37.0) is rate_at([], 30.0) is None


def test_ms_ssim_in_decibels() -> None:
    assert [decibel(v) for v in (0.0, 0.9, 0.999)] == pytest.approx([0, 10, 30])
    assert decibel(1.0) == math.inf
