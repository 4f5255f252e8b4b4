"""Which integer table a symbol is coded with: the context model of a codec.

Symbols s of channel c stand for whole numbers ``k = s - zeros[c]``, mostly small ones. Channels are
coded one after the other, each row by row. What is decoded already tells what k is expected to be
(mean) and how far off that may be (activity), through weighted sums over taps in 1/16:

    o = sum of weight * k    over mean taps      but the left one      l = weight * k    of the left
    p = sum of weight * |k|  over activity taps  but the left one      q = weight * |k|  of the left

    mean     = clamp(floor(o / 16), -31, 31) + clamp(floor(l / 16), -31, 31)
    activity =   min(floor(p / 16), 47)      +   min(floor(q / 16), 15)

A tap names a neighbour: the places left, above left, above and above right in the same channel,
or any of the 3x3 places around in an earlier channel; outside the picture k is 0. Edges cut both
into bins, and the pair of bins names one row of the tables:

    row = first row of c + number of mean edges <= mean * (activity edges of c + 1)
                         + number of activity edges <= activity

A model without taps and edges is a static one: one table a channel. All is integer, so that every
machine picks the same row. Only the left tap waits for the symbol just decoded, and all it needs is
one addition and one look-up; the sums of a row's other taps are formed at once.

    constant        value  meaning
    NEAR                4  left, above left, above, above right: same channel
    AROUND              9  3x3 places of each earlier channel, rows first
    STEP               16  what sums are divided by
    MEAN_LIMIT         31  of either part of the mean
    OTHERS_LIMIT       47  of the activity but for the left tap
    LEFT_LIMIT         15  of the left tap's activity
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.tables import SCALE, SCALE_BITS, check_frequencies

NEAR = ((0, -1), (-1, -1), (-1, 0), (-1, 1))
AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
STEP = 16
MEAN_LIMIT, OTHERS_LIMIT, LEFT_LIMIT = 31, 47, 15

#: Largest weight of a tap, and most taps of a channel: sums stay within 31 bits.
MAX_WEIGHT, MAX_TAPS = 2**12, 256
#: Most entries of all tables together: places of entries fit 16 bits, tables 128 KiB.
MAX_ENTRIES = 2**16

Ints = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The integer tables of a codec and the rule that picks among them, checked when built.

    Kept as read-only arrays of the types named here.

    Args:
        sizes: ``(C,)`` uint16, number of symbols of each channel, 2 to 256.
        zeros: ``(C,)`` uint8, the symbol that stands for k = 0, below the channel's size.
        mean_taps: ``(N, 5)`` int16 rows ``(channel, of, dy, dx, weight)``: channel c reads channel
            ``of`` at ``(dy, dx)``; sorted, no neighbour twice.
        activity_taps: ``(N, 5)`` int16, the same; weights of 0 and above.
        mean_edges: ``(N, 2)`` int16 rows ``(channel, edge)``, sorted, edges in -61..62.
        activity_edges: ``(N, 2)`` int16, the same, edges in 1..62.
        frequencies: ``(R, L)`` uint16, every row of a channel in order: its first ``sizes[c]``
            entries at least 1, the others 0, summing to 4096; L is the largest size.

    Raises:
        ValueError: if the parts do not fit together.
    """

    sizes: NDArray[np.uint16]
    zeros: NDArray[np.uint8]
    mean_taps: Ints
    activity_taps: Ints
    mean_edges: Ints
    activity_edges: Ints
    frequencies: NDArray[np.uint16]

    def __post_init__(self) -> None:
        types = {"sizes": np.uint16, "zeros": np.uint8, "frequencies": np.uint16}
        for name in self.__dataclass_fields__:
            given = np.asarray(getattr(self, name))
            kept = given.astype(types.get(name, np.int16), order="C")
            if not np.issubdtype(given.dtype, np.integer) or not np.array_equal(given, kept):
                raise _damaged(f"{name} of {given.dtype} out of range")
            kept.setflags(write=False)
            object.__setattr__(self, name, kept)
        channels = len(self.sizes)
        if self.sizes.ndim != 1 or not 1 <= channels <= 256 or self.zeros.shape != (channels,):
            raise _damaged(f"sizes {self.sizes.shape} and zeros {self.zeros.shape}")
        if self.sizes.min() < 2 or self.sizes.max() > 256 or (self.zeros >= self.sizes).any():
            raise _damaged("sizes outside 2..256, or zeros that are no symbols")
        self._check_taps()
        self._check_edges(self.mean_edges, 2 * MEAN_LIMIT, 1 - 2 * MEAN_LIMIT)
        self._check_edges(self.activity_edges, OTHERS_LIMIT + LEFT_LIMIT, 1)
        if self.frequencies.shape != (self.first_rows[-1], self.sizes.max()):
            raise _damaged(f"{self.frequencies.shape} tables for {self.first_rows[-1]} contexts")
        if int(self.sizes.astype(int) @ np.diff(self.first_rows)) > MAX_ENTRIES:
            raise _damaged(f"tables of more than {MAX_ENTRIES} entries")
        check_frequencies(self.frequencies, np.repeat(self.sizes, np.diff(self.first_rows)))

    @cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """``(C + 1,)``: where the rows of each channel start, and how many rows there are."""
        counts = self._bins(self.mean_edges) * self._bins(self.activity_edges)
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def least_bits(self) -> NDArray[np.float64]:
        """``(C,)``: least bits that a symbol of each channel can cost, whatever the contexts."""
        likeliest = np.maximum.reduceat(self.frequencies.max(1), self.first_rows[:-1])
        return np.asarray(SCALE_BITS - np.log2(likeliest, dtype=np.float64))

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(getattr(self, name).nbytes for name in self.__dataclass_fields__)

    def pack(self) -> bytes:
        """Return all parts in one string of bytes, for a stream id."""
        parts = [np.ascontiguousarray(getattr(self, name)) for name in self.__dataclass_fields__]
        shapes = b"".join(np.array(part.shape, "<u4").tobytes() for part in parts)
        return shapes + b"".join(
            part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts
        )

    def _bins(self, edges: Ints) -> NDArray[np.int64]:
        return np.bincount(edges[:, 0], minlength=len(self.sizes)) + 1

    def _check_taps(self) -> None:
        for taps in (self.mean_taps, self.activity_taps):
            if taps.ndim != 2 or taps.shape[1] != 5:
                raise _damaged(f"taps {taps.shape}")
            channel, of, dy, dx, _ = taps.T
            near = [(int(y), int(x)) in NEAR for y, x in zip(dy, dx, strict=True)]
            inside = (of >= 0) & (of <= channel) & (channel < len(self.sizes))
            around = (of < channel) & (abs(dy) <= 1) & (abs(dx) <= 1)
            if not (inside & (around | np.array(near, bool))).all():
                raise _damaged("a tap that reads what is not decoded yet")
            keys = [tuple(tap[:4]) for tap in taps.tolist()]
            if keys != sorted(set(keys)):
                raise _damaged("taps out of order")
            if np.bincount(channel, minlength=1).max(initial=0) > MAX_TAPS:
                raise _damaged(f"more than {MAX_TAPS} taps of a channel")
        weights = np.concatenate([self.mean_taps[:, 4], self.activity_taps[:, 4]])
        if (abs(weights.astype(int)) > MAX_WEIGHT).any() or (self.activity_taps[:, 4] < 0).any():
            raise _damaged("weights out of range")

    def _check_edges(self, edges: Ints, top: int, bottom: int) -> None:
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise _damaged(f"edges {edges.shape}")
        keys = [tuple(edge) for edge in edges.tolist()]
        if keys != sorted(set(keys)) or not all(
            0 <= c < len(self.sizes) and bottom <= edge <= top for c, edge in keys
        ):
            raise _damaged("edges out of order or range")


def static_model(frequencies: NDArray[np.integer]) -> ContextModel:
    """Return a model with one table a channel, ``(C, L)``, and no contexts.

    Example:
        >>> static_model(np.array([[2048, 2048], [1024, 3072]])).least_bits.round(3).tolist()
        [1.0, 0.415]
    """
    channels, length = frequencies.shape
    sizes, zeros = np.full(channels, length), np.zeros(channels, np.int64)
    taps, edges = np.zeros((0, 5), np.int64), np.zeros((0, 2), np.int64)
    parts: tuple[Any, ...] = (sizes, zeros, taps, taps, edges, edges, frequencies)
    return ContextModel(*parts)


def _damaged(detail: str) -> ValueError:
    return ValueError(
        f"expected a context model, got {detail}: the tables' file is damaged; copy it again"
    )


assert SCALE == 4096  # the module's text names it
