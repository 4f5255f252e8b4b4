"""Integer probability tables, one row per context.

    counts (R, L) --build_tables--> frequencies (R, L), every row sums to 4096

A symbol s has probability ``frequencies[row, s] / 4096``. Every symbol keeps at least
one count, so any symbol can be coded. Encoder and decoder see integers only: no float can make
two machines disagree about a table.

    constant     value  meaning
    SCALE_BITS      12  log2 of what a row sums to
    SCALE         4096  what a row sums to
"""

import numpy as np
from numpy.typing import NDArray

SCALE_BITS = 12
SCALE = 1 << SCALE_BITS


def check_frequencies(frequencies: NDArray[np.uint16], sizes: NDArray[np.integer]) -> None:
    """Refuse tables that no coder can use.

    Args:
        frequencies: ``(R, L)``.
        sizes: ``(R,)``, number of symbols of each row.

    Raises:
        ValueError: unless the first ``sizes`` entries of each row are at least 1, the others 0,
            and each row sums to 4096.
    """
    inside = np.arange(frequencies.shape[1]) < sizes[:, None]
    sums = frequencies.sum(axis=1, dtype=np.int64)
    if ((frequencies > 0) != inside).any() or (sums != SCALE).any():
        raise ValueError(
            f"expected coding tables {frequencies.shape} whose rows hold numbers of at least 1 and "
            f"sum to {SCALE}: the tables' file is damaged; copy it again"
        )


def build_tables(counts: NDArray[np.integer]) -> NDArray[np.uint16]:
    """Round histograms to tables, at nearly the least possible cost in bits.

    Moving one of a row's 4096 units to a symbol with n counts and frequency f saves
    ``n log((f + 1) / f)``, about ``2 n / (2 f + 1)``: the priority of Sainte-Laguë's method for
    handing out seats in proportion to votes. It is compared in integers, ties go to the lower
    symbol, so the same counts give the same tables on every machine. A row without counts
    becomes as flat as it can be.

    Args:
        counts: how often each symbol occurred, integers ``(R, L)``, 2 <= L <= 256, below 2**40.

    Example:
        >>> build_tables(np.array([[2, 1, 1], [0, 0, 9]])).tolist()
        [[2048, 1024, 1024], [1, 1, 4094]]
    """
    assert counts.ndim == 2, counts.shape
    assert 2 <= counts.shape[1] <= 256, counts.shape
    assert 0 <= counts.min() <= counts.max() < 1 << 40, (counts.min(), counts.max())
    return np.stack([_apportion(row) for row in counts.astype(np.int64)]).astype(np.uint16)


def _apportion(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return frequencies ``(L,)`` >= 1 that sum to 4096, in proportion to counts ``(L,)``."""
    votes = counts if counts.any() else np.ones_like(counts)
    # A start below the goal for every symbol: the whole shares of 4096 - L, and at least one.
    seats: NDArray[np.int64] = np.maximum(votes * (SCALE - len(votes)) // votes.sum(), 1)
    votes = votes << 20  # quotients of int64 that keep 20 bits behind the point
    for _ in range(SCALE - int(seats.sum())):
        seats[np.argmax(votes // (2 * seats + 1))] += 1
    return seats
