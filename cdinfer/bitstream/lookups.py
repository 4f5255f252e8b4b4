"""What the kernels look up: a `ContextModel` laid out for speed, built once a model.

All arrays are C-ordered. T is int16 if no sum of the model can leave it, else int32.

    array     shape      meaning
    near      (C, 2, 4)  T weights of mean and activity for the places `context.NEAR`
    taps      (N, 3)     int64 (of, dy, dx) in earlier channels: mean's, then activity's; those of
                         a channel are filled up to a multiple of `TAPS` with taps of weight 0
    weights   (N,)       T weights of the taps
    tap_ends  (2, C + 1) int64, where each channel's taps of mean and of activity start
    lookup    (C, 8448)  uint32: what symbol s adds to the pair of its right neighbour, as ``64 *
                         (mean + 31) + activity``; from `LEFTS` on, the row of the tables that pair
                         ``64 * (mean + 62) + activity`` leads to
    places    (R,)       uint16, where the entries of each row start
    entries   (E,)       uint32, frequency << 20 | start << 8 | symbol, row after row
    tables    (N,)       uint32, what decoding looks up, channel after channel
    begins    (C + 1,)   int64, where the table of each channel starts
    single    (C,)       bool, whether a channel has one row only

The table of a channel with one row has a number for each of the 4096 slots: frequency << 20 |
symbol << 12 | slot - start. That of any other is its ``lookup``, leading to places in the table
itself, then a block for each row: 128 bytes, the symbol that has most of each 32 slots; frequency
<< 16 | start of each symbol. Most of what is usually looked up has to fit the first cache, and
every step counts: decoding waits for little else.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.context import (
    LEFT_LIMIT,
    MAX_ENTRIES,
    MEAN_LIMIT,
    NEAR,
    STEP,
    ContextModel,
)
from cdinfer.bitstream.kernels import (
    ACTIVITIES,
    LEFTS,
    MEANS,
    OWNERS,
    SHARE_BITS,
    TAPS,
    Rule,
)
from cdinfer.bitstream.tables import SCALE


@lru_cache(maxsize=8)
def rule(model: ContextModel) -> Rule:
    """Return ``near, taps, weights, tap_ends`` of a model."""
    channels = len(model.sizes)
    near = np.zeros((channels, 2, 4), np.int32)
    taps: list[list[int]] = []
    ends = np.zeros((2, channels + 1), np.int64)
    largest = np.maximum(model.zeros, model.sizes - 1 - model.zeros.astype(int))
    sums = np.zeros((2, channels), np.int64)
    for which, given in enumerate((model.mean_taps, model.activity_taps)):
        for channel, of, dy, dx, weight in given.tolist():
            sums[which, channel] += abs(weight) * largest[of]
            if of == channel:
                near[channel, which, NEAR.index((dy, dx))] = weight
        for channel in range(channels):
            ends[which, channel] = len(taps)
            own = given[(given[:, 0] == channel) & (given[:, 1] < channel) & (given[:, 4] != 0)]
            taps += own[:, 1:].tolist() + [[0, 0, 0, 0]] * (-len(own) % TAPS)
        ends[which, channels] = len(taps)
    columns = np.array(taps, np.int64).reshape(-1, 4)
    places, weights = np.ascontiguousarray(columns[:, :3]), columns[:, 3]
    if sums.max() < 2**15:
        return near.astype(np.int16), places, weights.astype(np.int16), ends
    return near, places, weights.astype(np.int32), ends


@lru_cache(maxsize=8)
def encode_tables(
    model: ContextModel,
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint32]]:
    """Return ``lookup, places, entries`` of a model."""
    frequencies, starts = _intervals(model.frequencies)
    symbols = np.broadcast_to(np.arange(frequencies.shape[1], dtype=np.uint32), frequencies.shape)
    used = frequencies > 0
    entries = (frequencies << 20 | starts << 8 | symbols)[used].astype(np.uint32)
    assert len(entries) <= MAX_ENTRIES, len(entries)
    counts = used.sum(axis=1, dtype=np.int64)
    places = (np.cumsum(counts) - counts).astype(np.uint16)
    rows = [
        _lookup(model, channel, np.arange(first, end))
        for channel, (first, end) in enumerate(pairwise(model.first_rows.tolist()))
    ]
    return np.stack(rows), places, entries


@lru_cache(maxsize=8)
def decode_tables(
    model: ContextModel,
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
    """Return ``tables, begins, single`` of a model."""
    tables = []
    for channel, (first, end) in enumerate(pairwise(model.first_rows.tolist())):
        frequencies, starts = _intervals(model.frequencies[first:end, : model.sizes[channel]])
        if end - first == 1:
            tables.append(_slots(frequencies[0], starts[0]))
        else:
            blocks = _blocks(frequencies, starts)
            places = LEFTS + MEANS * ACTIVITIES + np.arange(len(blocks)) * blocks.shape[1]
            tables.append(np.concatenate([_lookup(model, channel, places), blocks.ravel()]))
    begins = np.cumsum([0, *map(len, tables)])
    return np.concatenate(tables), begins, np.diff(model.first_rows) == 1


def _intervals(frequencies: NDArray[np.uint16]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return frequencies and where each symbol's slots start, of rows."""
    wide = frequencies.astype(np.uint32)
    return wide, np.cumsum(wide, axis=1, dtype=np.uint32) - wide


def _slots(frequencies: NDArray[np.uint32], starts: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the table of a channel with one row: ``(4096,)``."""
    symbols = np.repeat(np.arange(len(frequencies), dtype=np.uint32), frequencies)
    rests = np.arange(SCALE, dtype=np.uint32) - starts[symbols]
    return np.asarray(frequencies[symbols] << 20 | symbols << 12 | rests, np.uint32)


def _blocks(frequencies: NDArray[np.uint32], starts: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the blocks of rows: ``(R, OWNERS / 4 + L)``."""
    edges = np.arange(OWNERS + 1)[:, None] << SHARE_BITS
    owners = np.empty((len(starts), OWNERS), np.uint8)
    for row in range(len(starts)):
        # How many slots before each edge belong to each symbol.
        owned = np.clip(edges, starts[row], starts[row] + frequencies[row])
        owners[row] = np.diff(owned, axis=0).argmax(axis=1)
    return np.hstack([owners.view(np.uint32), frequencies << 16 | starts]).astype(np.uint32)


def _lookup(model: ContextModel, channel: int, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return the ``lookup`` of a channel, ``(8448,)``, that leads to ``rows``, one for each row."""
    left = [0, 0]
    for which, taps in enumerate((model.mean_taps, model.activity_taps)):
        found = taps[(taps[:, 0] == channel) & (taps[:, 1] == channel) & (taps[:, 2] == 0)]
        left[which] = int(found[:, 4].sum())  # there is one at most
    k = np.arange(LEFTS) - int(model.zeros[channel])
    mean = np.clip(left[0] * k // STEP, -MEAN_LIMIT, MEAN_LIMIT) + MEAN_LIMIT
    activity = np.minimum(left[1] * abs(k) // STEP, LEFT_LIMIT)
    mean_edges = model.mean_edges[model.mean_edges[:, 0] == channel, 1]
    activity_edges = model.activity_edges[model.activity_edges[:, 0] == channel, 1]
    means = np.searchsorted(mean_edges, np.arange(MEANS) - 2 * MEAN_LIMIT, side="right")
    activities = np.searchsorted(activity_edges, np.arange(ACTIVITIES), side="right")
    named = rows[means[:, None] * (len(activity_edges) + 1) + activities]
    return np.concatenate([mean * ACTIVITIES + activity, named.ravel()]).astype(np.uint32)
