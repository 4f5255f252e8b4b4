"""What the kernels look up: a `ContextModel` laid out for speed, built once a model.

All arrays are C-ordered. T is int16 if no sum of the model can leave it, else int32.

    array     shape      meaning
    near      (C, 2, 4)  T weights of mean and activity for the places `context.NEAR`
    taps      (N, 3)     int64 (of, dy, dx) in earlier channels: mean's, then activity's; those of
                         a channel are filled up to a multiple of `TAPS` with taps of weight 0
    weights   (N,)       T weights of the taps
    tap_ends  (2, C + 1) int64, where each channel's taps of mean and of activity start
    lookup    (C, 8448)  uint32: pair ``64 * (mean + 62) + activity`` -> row of the tables (to
                         encode) or where its block starts (to decode); from `PAIRS` on, what
                         symbol s adds to the pair of its right neighbour, as ``64 * (mean + 31) +
                         activity``
    blocks    (bytes,)   uint8, a row's block: 128 times the symbol that owns the first of 32
                         slots; then start and frequency of each symbol, uint16 little-endian
    places    (R,)       uint16, where the entries of each row start
    entries   (E,)       uint32, frequency << 20 | start << 8 | symbol, row after row

The blocks of a channel's usual rows and its ``lookup`` have to fit the first cache: decoding waits
for little else.
"""

from functools import lru_cache

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

Sums = NDArray[np.int16] | NDArray[np.int32]
Rule = tuple[Sums, NDArray[np.int64], Sums, NDArray[np.int64]]

#: Sides of the look-up from pairs to rows, and their product.
MEANS, ACTIVITIES = 128, 64
PAIRS = MEANS * ACTIVITIES
#: Owners of a block, and how many slots share one, as a power of two.
OWNERS, SHARE_BITS = 128, 5
#: Taps that are added at once.
TAPS = 4


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
    frequencies = model.frequencies.astype(np.uint32)
    starts = np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies
    symbols = np.broadcast_to(np.arange(frequencies.shape[1], dtype=np.uint32), frequencies.shape)
    used = frequencies > 0
    entries = (frequencies << 20 | starts << 8 | symbols)[used].astype(np.uint32)
    assert len(entries) <= MAX_ENTRIES, len(entries)
    counts = used.sum(axis=1, dtype=np.int64)
    places = (np.cumsum(counts) - counts).astype(np.uint16)
    return _lookup(model, np.arange(len(frequencies))), places, entries


@lru_cache(maxsize=8)
def decode_tables(model: ContextModel) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Return ``lookup, blocks`` of a model."""
    blocks, lengths = [], []
    for channel, size in enumerate(model.sizes.tolist()):
        first, end = model.first_rows[channel : channel + 2]
        frequencies = model.frequencies[first:end, :size].astype("<u2")
        starts = np.cumsum(frequencies, axis=1, dtype="<u2") - frequencies
        symbols = np.tile(np.arange(size, dtype=np.uint8), end - first)
        owners = np.repeat(symbols, frequencies.ravel())[:: 1 << SHARE_BITS]
        pairs = np.stack([starts, frequencies], 2).view(np.uint8)
        block = np.hstack([owners.reshape(-1, OWNERS), pairs.reshape(end - first, -1)])
        blocks.append(block.ravel())
        lengths += [block.shape[1]] * len(block)
    return _lookup(model, np.cumsum([0, *lengths])[:-1]), np.concatenate(blocks)


def _lookup(model: ContextModel, values: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return the ``lookup`` that leads to ``values (R,)`` of the rows."""
    channels = len(model.sizes)
    lookup = np.empty((channels, PAIRS + 256), np.uint32)
    left = np.zeros((2, channels, 1), np.int64)
    for which, taps in enumerate((model.mean_taps, model.activity_taps)):
        found = taps[(taps[:, 0] == taps[:, 1]) & (taps[:, 2] == 0)]
        left[which, found[:, 0], 0] = found[:, 4]
    k = np.arange(256) - model.zeros[:, None].astype(int)
    mean = np.clip(left[0] * k // STEP, -MEAN_LIMIT, MEAN_LIMIT)
    activity = np.minimum(left[1] * abs(k) // STEP, LEFT_LIMIT)
    lookup[:, PAIRS:] = (mean + MEAN_LIMIT) * ACTIVITIES + activity
    for channel in range(channels):
        mean_edges = model.mean_edges[model.mean_edges[:, 0] == channel, 1]
        activity_edges = model.activity_edges[model.activity_edges[:, 0] == channel, 1]
        means = np.searchsorted(mean_edges, np.arange(MEANS) - 2 * MEAN_LIMIT, side="right")
        activities = np.searchsorted(activity_edges, np.arange(ACTIVITIES), side="right")
        rows = means[:, None] * (len(activity_edges) + 1) + activities
        lookup[channel, :PAIRS] = values[model.first_rows[channel] + rows.ravel()]
    return lookup
