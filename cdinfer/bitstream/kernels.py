"""The loops of contexts and of decoding, compiled with numba: `rans` says what they compute.

Numbers k are kept in padded planes, int16 with a border of zeros, so that no neighbour needs a
test. Streams advance in groups of L = 4 (of 1, if there is but one) side by side: place ``i`` of a
channel's plane holds k of stream ``n`` at ``i * L + n``, so that sums over taps are long loops
without strides. In these units ``line = (w + 2) * L`` is the length of a plane's row, borders
included, ``row = w * L`` without them, and ``size = (h + 2) * line`` that of a plane.

All arrays are C-ordered; `lookups` says what ``near`` to ``single`` hold. A type T is that of
``near``: sums over taps fit it. Loops that have to be fast take no slices of arrays and no views:
each costs two atomic additions, for the array's owner.
"""

from collections.abc import Callable
from functools import wraps

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from cdinfer.bitstream.context import MEAN_LIMIT, OTHERS_LIMIT
from cdinfer.bitstream.jit import compiled, constant

Kernel = Callable[..., None]
Sums = NDArray[np.int16] | NDArray[np.int32]
Pairs = NDArray[np.uint16]
Rule = tuple[Sums, NDArray[np.int64], Sums, NDArray[np.int64]]

# numba keeps kernels until this file changes: the layout of what they look up belongs here.

#: Sides of the look-up from pairs to rows; before it stands what each symbol adds to a pair.
MEANS, ACTIVITIES, LEFTS = 128, 64, 256
#: Owners of a block, and how many slots share one, as a power of two.
OWNERS, SHARE_BITS = 128, 5
#: Taps that are added at once.
TAPS = 4

#: Streams side by side, and the most int16 numbers that a vector register holds.
LANES, VECTOR = 4, 32
#: What a left neighbour of k = 0 adds to a pair.
_NOTHING = np.uint32(MEAN_LIMIT * ACTIVITIES)

STATE_LOW = np.uint32(1 << 16)
_U12 = np.uint32(12)
_U16 = np.uint32(16)
_U20 = np.uint32(20)
_SLOT = np.uint32(0xFFF)
_WORD = np.uint32(0xFFFF)
_ONE, _TWO, _THREE, _FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_LEFTS, _QUADS, _SHARE = np.uint64(LEFTS), np.uint64(OWNERS // 4), np.uint32(SHARE_BITS)


def _for_sums(*arguments: types.Type) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles a kernel for the T of its first argument when called.

    Args:
        arguments: numba types of what follows ``near, weights, sums``.
    """

    def decorate(function: Kernel) -> Kernel:
        kernels = {
            str(t): compiled(types.void(constant(t, 3), constant(t, 1), t[:, ::1], *arguments))(
                function
            )
            for t in (types.int16, types.int32)
        }

        @wraps(function)
        def call(near: Sums, *args: object) -> None:
            kernels[near.dtype.name](near, *args)

        return call

    return decorate


def room(
    rule: Rule, channels: int, height: int, width: int, lanes: int
) -> tuple[Sums, Sums, Sums, NDArray[np.int64], NDArray[np.int64], NDArray[np.int16], Pairs]:
    """Return ``near, weights, sums, tap_ends, offsets, planes, pairs`` for L lanes.

    ``offsets`` says how far the neighbour that each tap names lies from a place in channel 0;
    ``sums`` are for mean and activity, but for what the taps of a channel itself add.
    """
    near, taps, weights, tap_ends = rule
    line = (width + 2) * lanes
    size = (height + 2) * line
    # numpy's zeros take no memory before they are written: a stream may end long before.
    sums = np.zeros((2, size + VECTOR), near.dtype)
    planes = np.zeros(channels * size + VECTOR, np.int16)
    pairs = np.empty(-(-width * lanes // VECTOR) * VECTOR, np.uint16)
    return near, weights, sums, tap_ends, taps @ np.array([size, line, lanes]), planes, pairs


@numba.njit
def _set_plane(plane, symbols, zero, lanes, lane, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set one stream's numbers in a plane to its symbols."""
    for i in range(len(symbols)):
        at = (i // width + 1) * (width + 2) + i % width + 1
        plane[at * lanes + lane] = np.int16(symbols[i]) - np.int16(zero)


@numba.njit
def _set_far(planes, offsets, weights, begin, end, signed, at, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set ``total``, of the places from ``at`` on, to what taps ``begin`` to ``end`` add."""
    size, T = len(total), total.dtype.type  # noqa: N806
    for i in range(size):
        total[i] = 0
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
def _set_sums(planes, offsets, weights, tap_ends, c, low, high, mean, activity):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set mean and activity to what taps of channel ``c`` in earlier ones add."""
    for which in range(2):
        total = (activity if which else mean)[low:high]
        begin, end = tap_ends[which, c], tap_ends[which, c + 1]
        _set_far(planes, offsets, weights, begin, end, which == 0, low, total)


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


#: numba types of ``tap_ends, offsets, planes, pairs``.
_ROOM = (constant(types.int64, 2), constant(types.int64, 1), types.int16[::1], types.uint16[::1])


@_for_sums(
    *_ROOM, constant(types.uint32, 2), constant(types.uint8, 1), types.int64,
    constant(types.uint8, 3), types.uint16[:, :, ::1], types.int64,
)  # fmt: skip
def contexts(  # type: ignore[no-untyped-def]  # noqa: ANN201
    near, weights, sums, tap_ends, offsets, planes, pairs,  # noqa: ANN001
    lookup, zeros, first, symbols, out, width,  # noqa: ANN001
):  # fmt: skip
    """Set ``out (B, C - first, h * w)`` to the rows of the tables that code ``symbols``."""
    batch, channels, area = symbols.shape
    mean, activity, line = sums[0], sums[1], width + 2
    size = len(mean) - VECTOR
    low, high = line + 1, size - line - 1
    for b in range(batch):
        for c in range(channels):
            _set_plane(planes[c * size :], symbols[b, c], zeros[c], 1, 0, width)
        for c in range(first, channels):
            _set_sums(planes, offsets, weights, tap_ends, c, low, high, mean, activity)
            at = line + 1
            for begin in range(0, area, max(width, 1)):
                _set_pairs(planes[c * size :], near[c], at, line, 1, mean, activity, pairs)
                before = _NOTHING
                for j in range(begin, begin + width):
                    pair = np.uint32(np.uint32(pairs[j - begin]) + before)
                    out[b, c - first, j] = lookup[c, _LEFTS + np.uint64(pair)]
                    before = lookup[c, np.uint64(symbols[b, c, j])]
                at += line


@numba.njit
def _step(x, pair, table, owners):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take a symbol out of a state; the result fits 32 bits because the state did.

    1 symbol in 70 is not the owner of its 32 slots but stands beside it.
    """
    block, slot = np.uint64(table[_LEFTS + np.uint64(pair)]), np.uint32(x & _SLOT)
    symbol = np.uint64(owners[np.uint64(block << _TWO) + np.uint64(slot >> _SHARE)])
    entry = table[block + _QUADS + symbol]
    rest = np.int32(np.int32(slot) - np.int32(entry & _WORD))
    while (rest < 0) | (rest >= np.int32(entry >> _U16)):
        symbol = symbol - _ONE if rest < 0 else symbol + _ONE
        entry = table[block + _QUADS + symbol]
        rest = np.int32(np.int32(slot) - np.int32(entry & _WORD))
    frequency = np.uint32(entry >> _U16)
    return np.uint32(np.uint32(frequency * np.uint32(x >> _U12)) + np.uint32(rest)), symbol


@numba.njit
def _single_step(x, table):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take a symbol out of a state where the channel has one row: as `_step`."""
    entry = table[np.uint64(x & _SLOT)]
    frequency, rest = np.uint32(entry >> _U20), np.uint32(entry & _SLOT)
    return np.uint32(np.uint32(frequency * np.uint32(x >> _U12)) + rest), np.uint8(entry >> _U12)


@numba.njit
def _refill(x, p, words):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Append the next word to a state that fell below 2**16.

    The word is always read, so that there is no branch to be guessed wrong.
    """
    low = x < STATE_LOW
    more = np.uint32(np.uint32(x << _U16) | np.uint32(words[p]))
    return more if low else x, np.uint64(p + np.uint64(low))


@numba.njit
def _row_of_one(words, p, x, pairs, width, table, owners):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one row of one stream: as `_row_of_four`."""
    x0, p0, b0 = x[0], p[0], _NOTHING
    i, end = np.uint64(0), np.uint64(width)
    while i < end:
        x0, s0 = _step(x0, np.uint32(pairs[i] + b0), table, owners)
        pairs[i], b0 = s0, table[s0]
        x0, p0 = _refill(x0, p0, words)
        i += _ONE
    x[0], p[0] = x0, p0


@numba.njit
def _row_of_four(words, p, x, pairs, width, table, owners):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one row of four streams: replace ``pairs`` by symbols, and update ``x`` and ``p``.

    Up to one word a symbol is read, be it beyond the end of a stream.
    """
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    b0 = b1 = b2 = b3 = _NOTHING
    i, end = np.uint64(0), np.uint64(4 * width)
    while i < end:
        x0, s0 = _step(x0, np.uint32(pairs[i] + b0), table, owners)
        pairs[i], b0 = s0, table[s0]
        x0, p0 = _refill(x0, p0, words)
        x1, s1 = _step(x1, np.uint32(pairs[i | _ONE] + b1), table, owners)
        pairs[i | _ONE], b1 = s1, table[s1]
        x1, p1 = _refill(x1, p1, words)
        x2, s2 = _step(x2, np.uint32(pairs[i | _TWO] + b2), table, owners)
        pairs[i | _TWO], b2 = s2, table[s2]
        x2, p2 = _refill(x2, p2, words)
        x3, s3 = _step(x3, np.uint32(pairs[i | _THREE] + b3), table, owners)
        pairs[i | _THREE], b3 = s3, table[s3]
        x3, p3 = _refill(x3, p3, words)
        i += _FOUR
    x[0], x[1], x[2], x[3] = x0, x1, x2, x3
    p[0], p[1], p[2], p[3] = p0, p1, p2, p3


@numba.njit
def _singles_of_one(words, p, x, width, table, out, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one row of one stream where the channel has one row of tables, into ``out``."""
    x0, p0, at = x[0], p[0], places[0]
    for j in range(width):
        x0, out[at + np.uint64(j)] = _single_step(x0, table)
        x0, p0 = _refill(x0, p0, words)
    x[0], p[0] = x0, p0


@numba.njit
def _singles_of_four(words, p, x, width, table, out, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one row of four streams: as `_singles_of_one`."""
    for j in range(width):
        for n in range(LANES):
            y, out[places[n] + np.uint64(j)] = _single_step(x[n], table)
            x[n], p[n] = _refill(y, p[n], words)


@numba.njit
def _keep(plane, at, pairs, row, zero):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set a row of a plane to decoded symbols."""
    numbers = plane[at : at + row]
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


@numba.njit
def _cut(plane, symbols, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set symbols to those of a plane without its borders."""
    for r in range(len(symbols) // max(width, 1)):  # a division that might fail would be slow
        at = (r + 1) * (width + 2) + 1
        for j in range(width):
            symbols[r * width + j] = plane[at + j]


@_for_sums(
    *_ROOM, constant(types.uint8, 1), types.int64, types.uint8[:, :, ::1], types.int64,
    constant(types.uint16, 1), constant(types.int64, 1), constant(types.uint32, 1),
    constant(types.int64, 1), constant(types.boolean, 1), types.uint8[::1],
)  # fmt: skip
def decode(  # type: ignore[no-untyped-def]  # noqa: ANN201
    near, weights, sums, tap_ends, offsets, planes, pairs,  # noqa: ANN001
    zeros, first, symbols, width, words, ends, tables, begins, single, status,  # noqa: ANN001
):  # fmt: skip
    """Decode channels ``first`` and up of ``symbols (B, C, h * w)``; those before are set.

    ``words`` ends with ``width`` more than the payloads have: where a stream ends is looked at
    once a row, and it may run over its end until then. ``status`` becomes an index into
    ``rans._FAULTS``. A group stops once each of its streams has a fault. Lanes of the last group
    for which no stream is left decode its last one once more.
    """
    batch, channels, area = symbols.shape
    out, lanes = symbols.reshape(-1), LANES if batch > 1 else 1
    mean, activity, line, row = sums[0], sums[1], (width + 2) * lanes, width * lanes
    size = len(mean) - VECTOR
    low, high = line + lanes, size - line - lanes
    x, p = np.empty(lanes, np.uint32), np.empty(lanes, np.uint64)
    streams, places = np.empty(lanes, np.int64), np.empty(lanes, np.uint64)
    plain = np.empty((lanes, size // lanes), np.uint8)
    for b0 in range(0, batch, lanes):
        for n in range(lanes):
            b = streams[n] = min(b0 + n, batch - 1)
            begin = np.uint64(ends[b - 1] if b else 0)
            x[n] = np.uint32(words[begin]) | np.uint32(np.uint32(words[begin + _ONE]) << _U16)
            p[n] = begin + _TWO
            status[b] = 2 if x[n] < STATE_LOW else 0
            for c in range(first):
                _set_plane(planes[c * size :], symbols[b, c], zeros[c], lanes, n, width)
        for c in range(first, channels):
            plane, zero, beside = planes[c * size :], np.int16(zeros[c]), near[c]
            table = tables[begins[c] : begins[c + 1]]
            owners = table.view(np.uint8)
            if not single[c]:
                _set_sums(planes, offsets, weights, tap_ends, c, low, high, mean, activity)
            at, whole = line + lanes, True
            for done in range(0, area, max(width, 1)):
                whole = False
                if single[c]:
                    for n, b in enumerate(streams):
                        places[n] = np.uint64((b * channels + c) * area + done)
                    if lanes == LANES:
                        _singles_of_four(words, p, x, width, table, out, places)
                    else:
                        _singles_of_one(words, p, x, width, table, out, places)
                else:
                    _set_pairs(plane, beside, at, line, lanes, mean, activity, pairs)
                    if lanes == LANES:
                        _row_of_four(words, p, x, pairs, width, table, owners)
                    else:
                        _row_of_one(words, p, x, pairs, width, table, owners)
                    _keep(plane, at, pairs, row, zero)
                for n, b in enumerate(streams):
                    if p[n] > np.uint64(ends[b]):
                        p[n] = np.uint64(ends[b])
                        status[b] = status[b] or 1
                    whole |= status[b] == 0
                if not whole:
                    break
                at += line
            if not whole:
                break
            if not single[c]:
                _split(plane[:size], zero, plain)
            for n, b in enumerate(streams):
                if not single[c]:
                    _cut(plain[n], symbols[b, c], width)
                elif len(offsets):
                    _set_plane(plane, symbols[b, c], zeros[c], lanes, n, width)
        for n, b in enumerate(streams):
            if status[b] == 0 and x[n] != STATE_LOW:
                status[b] = 3
            if status[b] == 0 and p[n] != np.uint64(ends[b]):
                status[b] = 4
