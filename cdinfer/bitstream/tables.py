"""Integer probability tables, one row per latent channel.

    counts (C, L) --build_tables--> frequencies (C, L), every row sums to 4096

A symbol s of channel c has probability ``frequencies[c, s] / 4096``. Every symbol keeps at least
one count, so any symbol can be coded. Encoder and decoder see integers only: no float can make
two machines disagree about a table.

    constant     value  meaning
    SCALE_BITS      12  log2 of what a row sums to
    SCALE         4096  what a row sums to
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SCALE_BITS = 12
SCALE = 1 << SCALE_BITS


@dataclass(frozen=True, eq=False)
class Tables:
    """Symbol frequencies of every channel, checked when built.

    Args:
        frequencies: integers ``(C, L)``, each at least 1, each row summing to 4096,
            2 <= L <= 256. Kept as a read-only uint16 copy.

    Raises:
        ValueError: if ``frequencies`` is anything else.
    """

    frequencies: NDArray[np.uint16]

    def __post_init__(self) -> None:
        given = np.asarray(self.frequencies)
        if (
            not np.issubdtype(given.dtype, np.integer)
            or given.ndim != 2
            or given.shape[0] < 1
            or not 2 <= given.shape[1] <= 256
            or given.min() < 1
            or given.max() > SCALE
            or (given.sum(axis=1, dtype=np.int64) != SCALE).any()
        ):
            raise ValueError(
                "expected coding tables of integers (C, 2..256), each at least 1 and each row "
                f"summing to {SCALE}, but got {given.dtype} {given.shape}: "
                "the tables' file is damaged; copy it again or build it with build_tables"
            )
        frequencies = given.astype(np.uint16, order="C")
        frequencies.setflags(write=False)
        object.__setattr__(self, "frequencies", frequencies)

    @cached_property
    def starts(self) -> NDArray[np.uint32]:
        """First slot of every symbol, ``(C, L)``: the sum of the frequencies before it."""
        cumulative = np.cumsum(self.frequencies, axis=1, dtype=np.uint32)
        return cumulative - self.frequencies

    @cached_property
    def lookup(self) -> NDArray[np.uint32]:
        """Decoder's table ``(C, 4096)``: all about the symbol that owns a slot, in one word.

        Bits 20-31 hold its frequency, 8-19 the slot's place within the symbol, 0-7 the symbol.
        """
        slots = np.arange(SCALE, dtype=np.uint32)
        rows = []
        for frequencies, starts in zip(self.frequencies, self.starts, strict=True):
            symbols = np.repeat(np.arange(len(starts), dtype=np.uint32), frequencies)
            own = frequencies.astype(np.uint32)[symbols]
            rows.append(own << 20 | (slots - starts[symbols]) << 8 | symbols)
        return np.stack(rows)

    @cached_property
    def min_bits(self) -> float:
        """Least bits a symbol can cost, mean over channels.

        ``min_bits`` times the number of symbols bounds any payload of all C channels from below.

        >>> Tables(np.array([[2048, 2048], [1024, 3072]])).min_bits.__round__(3)
        0.708
        """
        return float(np.mean(SCALE_BITS - np.log2(self.frequencies.max(axis=1))))


def build_tables(counts: NDArray[np.integer]) -> Tables:
    """Round histograms to tables, at nearly the least possible cost in bits.

    Moving one of a row's 4096 units to a symbol with n counts and frequency f saves
    ``n log((f + 1) / f)``, about ``2 n / (2 f + 1)``: the priority of Sainte-Laguë's method for
    handing out seats in proportion to votes. It is compared in integers, ties go to the lower
    symbol, so the same counts give the same tables on every machine. A row without counts
    becomes as flat as it can be.

    Args:
        counts: how often each symbol occurred, integers ``(C, L)``, 2 <= L <= 256, below 2**40.

    >>> build_tables(np.array([[2, 1, 1], [0, 0, 9]])).frequencies.tolist()
    [[2048, 1024, 1024], [1, 1, 4094]]
    """
    assert counts.ndim == 2, counts.shape
    assert 2 <= counts.shape[1] <= 256, counts.shape
    assert 0 <= counts.min() <= counts.max() < 1 << 40, (counts.min(), counts.max())
    return Tables(np.stack([_apportion(row) for row in counts.astype(np.int64)]))


def ideal_bits(symbols: NDArray[np.uint8], tables: Tables) -> NDArray[np.float64]:
    """Return what symbols cost under tables, in bits per stream: ``(B,)``.

    Args:
        symbols: ``(B, C, h, w)``, below L.
        tables: of C channels.

    >>> tables = Tables(np.array([[2048, 1024, 1024]]))
    >>> ideal_bits(np.array([[[[0, 1, 2]]]], dtype=np.uint8), tables).tolist()
    [5.0]
    """
    costs = SCALE_BITS - np.log2(tables.frequencies)
    channels = np.arange(len(costs))[:, None, None]
    return np.asarray(costs[channels, symbols].sum(axis=(1, 2, 3)), dtype=np.float64)


def _apportion(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return frequencies ``(L,)`` >= 1 that sum to 4096, in proportion to counts ``(L,)``."""
    votes = counts if counts.any() else np.ones_like(counts)
    # A start below the goal for every symbol: the whole shares of 4096 - L, and at least one.
    seats: NDArray[np.int64] = np.maximum(votes * (SCALE - len(votes)) // votes.sum(), 1)
    votes = votes << 20  # quotients of int64 that keep 20 bits behind the point
    for _ in range(SCALE - int(seats.sum())):
        seats[np.argmax(votes // (2 * seats + 1))] += 1
    return seats
