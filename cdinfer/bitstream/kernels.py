"""The loops of the entropy coder, compiled with numba: `rans` says what they compute.

Numbers k are kept in padded planes, int16 with a border of zeros, so that no neighbour needs a
test. Streams advance in groups of L = 4 (of 1, if there is but one) side by side: place ``i`` of a
channel's plane holds k of stream ``n`` at ``i * L + n``, so that sums over taps are long loops
without strides. In these units ``line = (w + 2) * L`` is the length of a plane's row, borders
included, ``row = w * L`` without them, and ``size = (h + 2) * line`` that of a plane.

All arrays are C-ordered; `lookups` says what ``near`` to ``entries`` hold. A type T is that of
``near``: sums over taps fit it.
"""

from collections.abc import Callable
from functools import wraps

import numba
import numpy as np
from numba import types

from cdinfer.bitstream.context import MEAN_LIMIT, OTHERS_LIMIT
from cdinfer.bitstream.jit import compiled
from cdinfer.bitstream.lookups import ACTIVITIES, OWNERS, PAIRS, SHARE_BITS, TAPS, Sums

Kernel = Callable[..., None]

#: Streams side by side, and the most int16 numbers that a vector register holds.
LANES, VECTOR = 4, 32
#: What a left neighbour of k = 0 adds to a pair.
_NOTHING = np.uint32(MEAN_LIMIT * ACTIVITIES)

STATE_LOW = np.uint32(1 << 16)
_U8 = np.uint32(8)
_U12 = np.uint32(12)
_U16 = np.uint32(16)
_U20 = np.uint32(20)
_SLOT = np.uint32(0xFFF)
_WORD = np.uint32(0xFFFF)
_ONE, _TWO, _THREE, _FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_OWNERS, _PAIRS, _SHARE = np.uint64(OWNERS), np.uint64(PAIRS), np.uint32(SHARE_BITS)


def _constant(dtype: types.Type, ndim: int) -> types.Type:
    """Return the numba type of a C-ordered array that a kernel only reads."""
    return types.Array(dtype, ndim, "C", readonly=True)


def _for_sums(*arguments: types.Type) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles a kernel for the T of its first argument when called.

    Args:
        arguments: numba types of what follows ``near, taps, weights, tap_ends, lookup``.
    """

    def decorate(function: Kernel) -> Kernel:
        rest = (_constant(types.int64, 2), _constant(types.uint32, 2), *arguments)
        kernels = {
            str(t): compiled(
                types.void(_constant(t, 3), _constant(types.int64, 2), _constant(t, 1), *rest)
            )(function)
            for t in (types.int16, types.int32)
        }

        @wraps(function)
        def call(near: Sums, *args: object) -> None:
            kernels[near.dtype.name](near, *args)

        return call

    return decorate


@numba.njit
def _set_plane(plane, symbols, zero, lanes, lane, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set one stream's numbers in a plane to its symbols."""
    for i in range(len(symbols)):
        at = (i // width + 1) * (width + 2) + i % width + 1
        plane[at * lanes + lane] = np.int16(symbols[i]) - np.int16(zero)


@numba.njit
def _offsets(taps, line, lanes, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how far the neighbour that each tap names lies from a place in channel 0."""
    offsets = np.empty(len(taps), np.int64)
    for n in range(len(taps)):
        offsets[n] = taps[n, 0] * size + taps[n, 1] * line + taps[n, 2] * lanes
    return offsets


@numba.njit
def _set_far(planes, offsets, weights, begin, end, signed, at, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set ``total``, of the places from ``at`` on, to what taps ``begin`` to ``end`` add."""
    size, T = len(total), total.dtype.type  # noqa: N806
    total[:] = 0
    for n in range(begin, end, TAPS):
        o0, o1 = at + offsets[n], at + offsets[n + 1]
        o2, o3 = at + offsets[n + 2], at + offsets[n + 3]
        k0, k1 = planes[o0 : o0 + size], planes[o1 : o1 + size]
        k2, k3 = planes[o2 : o2 + size], planes[o3 : o3 + size]
        w0, w1, w2, w3 = weights[n], weights[n + 1], weights[n + 2], weights[n + 3]
        if signed:
            for i in range(size):
                a, b, c, d = T(k0[i]), T(k1[i]), T(k2[i]), T(k3[i])
                total[i] += T(T(w0 * a) + T(w1 * b)) + T(T(w2 * c) + T(w3 * d))
        else:
            for i in range(size):
                a, b, c, d = T(abs(k0[i])), T(abs(k1[i])), T(abs(k2[i])), T(abs(k3[i]))
                total[i] += T(T(w0 * a) + T(w1 * b)) + T(T(w2 * c) + T(w3 * d))


@numba.njit
def _set_pairs(plane, near, at, line, lanes, mean, activity, pairs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set the ``pairs`` of the row that starts at ``at``, but for what the left tap adds.

    A pair of mean and activity is one number, so that both grow by one addition. ``pairs`` may
    be longer than the row, for whole vectors; what is beyond it means nothing.
    """
    size, T = len(pairs), mean.dtype.type  # noqa: N806
    above = at - line
    k0, k1 = plane[above - lanes : above - lanes + size], plane[above : above + size]
    k2 = plane[above + lanes : above + lanes + size]
    m, a = mean[at : at + size], activity[at : at + size]
    m0, m1, m2, a0, a1, a2 = near[0, 1], near[0, 2], near[0, 3], near[1, 1], near[1, 2], near[1, 3]
    for i in range(size):
        x, y, z = T(k0[i]), T(k1[i]), T(k2[i])
        o = T(T(m[i] + T(m0 * x)) + T(T(m1 * y) + T(m2 * z))) >> 4
        p = T(T(a[i] + T(a0 * T(abs(x)))) + T(T(a1 * T(abs(y))) + T(a2 * T(abs(z))))) >> 4
        o = T(min(max(T(o), T(-MEAN_LIMIT)), T(MEAN_LIMIT)))
        pairs[i] = T(T(o + MEAN_LIMIT) * ACTIVITIES) + T(min(T(p), T(OTHERS_LIMIT)))


@_for_sums(
    _constant(types.uint8, 1), types.int64, _constant(types.uint8, 3), types.uint16[:, :, ::1],
    types.int64,
)  # fmt: skip
def contexts(near, taps, weights, tap_ends, lookup, zeros, first, symbols, out, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Set ``out (B, C - first, h * w)`` to the rows of the tables that code ``symbols``."""
    batch, channels, area = symbols.shape
    height, line = area // max(width, 1), width + 2
    size = (height + 2) * line
    planes = np.zeros(channels * size + VECTOR, np.int16)
    mean, activity = np.zeros(size + VECTOR, near.dtype), np.zeros(size + VECTOR, near.dtype)
    offsets = _offsets(taps, line, 1, size)
    pairs = np.empty(-(-width // VECTOR) * VECTOR, np.uint16)
    low, high = line + 1, size - line - 1
    for b in range(batch):
        for c in range(channels):
            _set_plane(planes[c * size :], symbols[b, c], zeros[c], 1, 0, width)
        for c in range(first, channels):
            begins, ends = tap_ends[:, c], tap_ends[:, c + 1]
            _set_far(planes, offsets, weights, begins[0], ends[0], True, low, mean[low:high])
            _set_far(planes, offsets, weights, begins[1], ends[1], False, low, activity[low:high])
            for r in range(height):
                at = (r + 1) * line + 1
                _set_pairs(planes[c * size :], near[c], at, line, 1, mean, activity, pairs)
                before = _NOTHING
                for j in range(r * width, (r + 1) * width):
                    pair = np.uint32(np.uint32(pairs[j - r * width]) + before)
                    out[b, c - first, j] = lookup[c, np.uint64(pair)]
                    before = lookup[c, np.uint64(symbols[b, c, j]) + _PAIRS]


@compiled(
    types.void(
        _constant(types.uint8, 2),
        _constant(types.uint16, 2),
        _constant(types.uint16, 1),
        _constant(types.uint32, 1),
        types.uint16[:, ::1],
        types.int64[::1],
    )
)
def encode(symbols, rows, places, entries, words, begins):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Encode every stream ``(B, n)`` backwards, since rANS is last in, first out.

    Rows of ``words`` are filled from their ends; ``begins`` says where each payload starts.
    """
    for b in range(len(symbols)):
        p = words.shape[1]
        x = STATE_LOW
        for j in range(symbols.shape[1] - 1, -1, -1):
            entry = entries[np.uint64(places[rows[b, j]]) + np.uint64(symbols[b, j])]
            frequency = np.uint32(entry >> _U20)
            if x >= np.uint32(frequency << _U20):
                p -= 1
                words[b, p] = x & _WORD
                x >>= _U16
            quotient = np.uint32(x // frequency)
            rest = np.uint32(x - quotient * frequency)
            x = np.uint32((quotient << _U12) + rest + (entry >> _U8 & _SLOT))
        p -= 2
        words[b, p] = x & _WORD
        words[b, p + 1] = x >> _U16
        begins[b] = p


@numba.njit
def _word(blocks, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the uint16 at a place of the blocks."""
    return np.uint32(np.uint32(blocks[at]) | np.uint32(np.uint32(blocks[at + _ONE]) << _U8))


@numba.njit
def _step(x, pair, lookup, blocks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take a symbol out of a state; the result fits 32 bits because the state did.

    1 symbol in 50 is not the owner of its 32 slots but comes after it.
    """
    block = np.uint64(lookup[np.uint64(pair)])
    slot = np.uint32(x & _SLOT)
    symbol = np.uint64(blocks[block + np.uint64(slot >> _SHARE)])
    at = block + _OWNERS + (symbol << _TWO)
    frequency, rest = _word(blocks, at + _TWO), np.uint32(slot - _word(blocks, at))
    while rest >= frequency:
        rest = np.uint32(rest - frequency)
        symbol += _ONE
        frequency = _word(blocks, block + _OWNERS + (symbol << _TWO) + _TWO)
    return np.uint32(np.uint32(frequency * np.uint32(x >> _U12)) + rest), symbol


@numba.njit
def _refill(x, word, low):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Append the next word to a state that fell below 2**16."""
    return np.uint32((x << _U16) | word) if low else x


@numba.njit
def _row_of_one(words, p, x, pairs, width, lookup, blocks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one row of one stream: as `_row_of_four`."""
    x0, p0, b0 = x[0], p[0], _NOTHING
    i, end = np.uint64(0), np.uint64(width)
    while i < end:
        x0, s0 = _step(x0, np.uint32(pairs[i] + b0), lookup, blocks)
        pairs[i], b0 = s0, lookup[s0 + _PAIRS]
        low = x0 < STATE_LOW
        x0 = _refill(x0, words[p0], low)
        p0 += np.uint64(low)
        i += _ONE
    x[0], p[0] = x0, p0


@numba.njit
def _row_of_four(words, p, x, pairs, width, lookup, blocks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one row of four streams: replace ``pairs`` by symbols, and update ``x`` and ``p``.

    Up to one word a symbol is read, be it beyond the end of a stream.
    """
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    b0 = b1 = b2 = b3 = _NOTHING
    i, end = np.uint64(0), np.uint64(4 * width)
    while i < end:
        x0, s0 = _step(x0, np.uint32(pairs[i] + b0), lookup, blocks)
        pairs[i], b0 = s0, lookup[s0 + _PAIRS]
        low = x0 < STATE_LOW
        x0 = _refill(x0, words[p0], low)
        p0 += np.uint64(low)
        x1, s1 = _step(x1, np.uint32(pairs[i | _ONE] + b1), lookup, blocks)
        pairs[i | _ONE], b1 = s1, lookup[s1 + _PAIRS]
        low = x1 < STATE_LOW
        x1 = _refill(x1, words[p1], low)
        p1 += np.uint64(low)
        x2, s2 = _step(x2, np.uint32(pairs[i | _TWO] + b2), lookup, blocks)
        pairs[i | _TWO], b2 = s2, lookup[s2 + _PAIRS]
        low = x2 < STATE_LOW
        x2 = _refill(x2, words[p2], low)
        p2 += np.uint64(low)
        x3, s3 = _step(x3, np.uint32(pairs[i | _THREE] + b3), lookup, blocks)
        pairs[i | _THREE], b3 = s3, lookup[s3 + _PAIRS]
        low = x3 < STATE_LOW
        x3 = _refill(x3, words[p3], low)
        p3 += np.uint64(low)
        i += _FOUR
    x[0], x[1], x[2], x[3] = x0, x1, x2, x3
    p[0], p[1], p[2], p[3] = p0, p1, p2, p3


@numba.njit
def _keep(numbers, pairs, zero):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set a row of a plane to decoded symbols."""
    for i in range(len(numbers)):
        numbers[i] = np.int16(np.int16(pairs[i]) - zero)


@numba.njit
def _split(plane, zero, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set ``out (L, ...)`` to the symbols of each stream of a plane, borders included."""
    if len(out) == LANES:
        out0, out1, out2, out3 = out[0], out[1], out[2], out[3]
        for i in range(len(out0)):
            out0[i] = (plane[4 * i] + zero) & 255
            out1[i] = (plane[4 * i + 1] + zero) & 255
            out2[i] = (plane[4 * i + 2] + zero) & 255
            out3[i] = (plane[4 * i + 3] + zero) & 255
    else:
        for i in range(len(plane)):
            out[0, i] = (plane[i] + zero) & 255


@_for_sums(
    _constant(types.uint8, 1), types.int64, types.uint8[:, :, ::1], types.int64,
    _constant(types.uint16, 1), _constant(types.int64, 1), _constant(types.uint8, 1),
    types.uint8[::1],
)  # fmt: skip
def decode(  # type: ignore[no-untyped-def]  # noqa: ANN201
    near, taps, weights, tap_ends, lookup, zeros,  # noqa: ANN001
    first, symbols, width, words, ends, blocks, status,  # noqa: ANN001
):  # fmt: skip
    """Decode channels ``first`` and up of ``symbols (B, C, h * w)``; those before are set.

    ``words`` ends with ``width`` more than the payloads have: where a stream ends is looked at
    once a row, and it may run over its end until then. ``status`` becomes an index into
    ``rans._FAULTS``. The lanes of a last group that no stream takes decode noise.
    """
    batch, channels, area = symbols.shape
    height = area // max(width, 1)
    lanes = LANES if batch > 1 else 1
    line, row = (width + 2) * lanes, width * lanes
    size = (height + 2) * line
    full = -(-batch // lanes) * lanes
    x, p = np.full(full, STATE_LOW, np.uint32), np.zeros(full, np.uint64)
    stops = np.zeros(full, np.uint64)
    begin = np.uint64(0)
    for b in range(batch):
        x[b] = np.uint32(words[begin]) | np.uint32(np.uint32(words[begin + _ONE]) << _U16)
        status[b] = 2 if x[b] < STATE_LOW else 0
        p[b], stops[b] = begin + _TWO, np.uint64(ends[b])
        begin = stops[b]
    planes = np.zeros(channels * size + VECTOR, np.int16)
    mean, activity = np.zeros(size + VECTOR, near.dtype), np.zeros(size + VECTOR, near.dtype)
    offsets = _offsets(taps, line, lanes, size)
    pairs = np.empty(-(-row // VECTOR) * VECTOR, np.uint16)
    plain = np.empty((lanes, size // lanes), np.uint8)
    low, high = line + lanes, size - line - lanes
    for b0 in range(0, len(x), lanes):
        group = slice(b0, b0 + lanes)
        for b in range(b0, min(b0 + lanes, batch)):
            for c in range(first):
                _set_plane(planes[c * size :], symbols[b, c], zeros[c], lanes, b - b0, width)
        for c in range(first, channels):
            plane, zero = planes[c * size :], np.int16(zeros[c])
            begins, stop = tap_ends[:, c], tap_ends[:, c + 1]
            _set_far(planes, offsets, weights, begins[0], stop[0], True, low, mean[low:high])
            _set_far(planes, offsets, weights, begins[1], stop[1], False, low, activity[low:high])
            for r in range(height):
                at = (r + 1) * line + lanes
                _set_pairs(plane, near[c], at, line, lanes, mean, activity, pairs)
                if lanes == LANES:
                    _row_of_four(words, p[group], x[group], pairs, width, lookup[c], blocks)
                else:
                    _row_of_one(words, p[group], x[group], pairs, width, lookup[c], blocks)
                _keep(plane[at : at + row], pairs, zero)
                for b in range(b0, b0 + lanes):
                    if p[b] > stops[b]:
                        p[b] = stops[b]
                        if b < batch and status[b] == 0:
                            status[b] = 1
            _split(plane[:size], zero, plain)
            for b in range(b0, min(b0 + lanes, batch)):
                for r in range(height):
                    at = (r + 1) * (width + 2) + 1
                    for j in range(width):
                        symbols[b, c, r * width + j] = plain[b - b0, at + j]
    for b in range(batch):
        if status[b] == 0 and x[b] != STATE_LOW:
            status[b] = 3
        if status[b] == 0 and p[b] != stops[b]:
            status[b] = 4
