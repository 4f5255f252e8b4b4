"""What two arms of an experiment differ by, over seeds they share."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

#: Fewest seeds that a claim may rest on.
SEEDS = 5

_RESAMPLES = 10_000


class Difference(NamedTuple):
    """A mean difference with its 95 % bootstrap interval, over ``seeds`` pairs."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def claimed(self) -> bool:
        """Whether there are enough seeds and the interval excludes 0."""
        return self.seeds >= SEEDS and not self.low <= 0 <= self.high


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Return ours less theirs, over the seeds that both have.

    The interval holds the middle 95 % of the means of 10,000 resamples of the pairs (Efron,
    Bootstrap methods, 1979; percentile form), drawn with a fixed seed.

    Raises:
        ValueError: if no seed is in both.

    Example:
        >>> paired_difference({0: 0.8, 1: 0.9}, {0: 0.7, 1: 0.8}).mean
        0.1
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError("expected seeds that both arms have, got none")
    pairs = np.array([ours[seed] - theirs[seed] for seed in seeds])
    chosen = np.random.default_rng(0).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    low, high = np.percentile(pairs[chosen].mean(1), (2.5, 97.5))
    mean, low, high = (round(float(value), 12) for value in (pairs.mean(), low, high))
    return Difference(mean, low, high, len(seeds))
