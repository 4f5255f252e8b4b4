import numpy as np
import pytest
from scipy.stats import bootstrap

from cdinfer.studies.paired import paired_difference


def test_the_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    theirs = dict(enumerate(rng.normal(0.7, 0.02, 12).tolist()))
    ours = {seed: value + float(rng.normal(0.02, 0.01)) for seed, value in theirs.items()}
    pairs = np.array([ours[seed] - theirs[seed] for seed in ours])
    interval = bootstrap((pairs,), np.mean, method="percentile").confidence_interval
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(pairs.mean())
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=5e-4)
    assert found.claimed


def test_pairs_are_of_equal_seeds_and_others_are_left_out() -> None:
    found = paired_difference({0: 1.0, 1: 2.0, 7: 99.0}, {1: 1.0, 0: 0.0, 5: -99.0})
    assert found == (1.0, 1.0, 1.0, 2)


def test_nothing_is_claimed_from_few_seeds_or_across_zero() -> None:
    assert not paired_difference(dict.fromkeys(range(4), 1.0), dict.fromkeys(range(4), 0.0)).claimed
    assert paired_difference(dict.fromkeys(range(5), 1.0), dict.fromkeys(range(5), 0.0)).claimed
    wide = {0: 1.0, 1: -1.0, 2: 0.5, 3: -0.4, 4: 0.1}
    assert not paired_difference(wide, dict.fromkeys(wide, 0.0)).claimed


def test_the_interval_is_the_same_every_time() -> None:
    ours, theirs = {0: 0.3, 1: 0.1, 2: 0.2}, {0: 0.1, 1: 0.2, 2: 0.0}
    assert paired_difference(ours, theirs) == paired_difference(ours, theirs)


def test_arms_without_a_common_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds that both arms have"):
        paired_difference({0: 1.0}, {1: 1.0})
