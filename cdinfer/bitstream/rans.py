"""Interleaved range asymmetric numeral systems (rANS): symbols <-> payload bytes.

    symbols (B, C, h, w) --encode--> B payloads --decode--> symbols (B, C, h, w)

Symbols are coded in the order (C, h, w); channel c uses row c of the tables. The j-th symbol of
a channel belongs to lane ``j % num_lanes``. A payload is a sequence of 16-bit little-endian
words: first the state of every lane (low word, high word), then the words that the lanes ask for
while decoding, in the order in which they ask. Decoding a symbol from state x:

    slot   = x % 4096                        which symbol s owns this slot of row c?
    x      = frequency * (x // 4096) + slot - start
    if x < 2**16:  x = x * 2**16 + next word

After the last symbol every state must be back at 2**16, where the encoder started, and every
word must have been used; so a payload decodes to one set of symbols and no other payload does.

    constant        value  meaning
    STATE_LOW       2**16  states lie in [2**16, 2**32); words have 16 bits
    MANY_LANES          4  lanes of a stream of at least 12,288 symbols, else 1

A lane costs about 3 bytes and buys speed: four states advance side by side in one core.

References:
    Duda, Asymmetric numeral systems, 2013, https://arxiv.org/abs/1311.2540 (range variant).
    Giesen, Interleaved entropy coders, 2014, https://arxiv.org/abs/1402.3392 (lanes in one
        stream of words).
"""

from collections.abc import Sequence

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.jit import compiled
from cdinfer.bitstream.tables import Tables

#: Names the payload coding of this file; part of every stream id, changed with the coding.
CODER = b"rans-32-16-12-lanes-1-4"

MANY_LANES = 4
MANY_SYMBOLS = 12_288

STATE_LOW = np.uint32(1 << 16)
_U8 = np.uint32(8)
_U12 = np.uint32(12)
_U16 = np.uint32(16)
_U20 = np.uint32(20)
_BYTE = np.uint32(0xFF)
_SLOT = np.uint32(0xFFF)
_WORD = np.uint32(0xFFFF)

#: What a stream's status means; 0 is success.
_FAULTS = (
    "",
    "it ends early",
    "a coder state is out of range",
    "it does not end where its encoder began",
    "bytes are left over",
)


def num_lanes(num_symbols: int) -> int:
    """Return how many lanes a stream of that many symbols has.

    >>> num_lanes(8 * 28 * 28), num_lanes(16 * 28 * 28)
    (1, 4)
    """
    return MANY_LANES if num_symbols >= MANY_SYMBOLS else 1


def encode(symbols: NDArray[np.uint8], tables: Tables) -> list[bytes]:
    """Entropy-code a batch.

    Args:
        symbols: uint8 ``(B, C, h, w)``, below the tables' L.
        tables: of C channels.

    Returns:
        One payload per stream; the same whatever the batch it is coded in.

    Raises:
        ValueError: if a symbol has no entry in the tables.
    """
    batch, channels, height, width = symbols.shape
    num_channels, length = tables.frequencies.shape
    assert symbols.dtype == np.uint8, symbols.dtype
    assert channels == num_channels, (channels, num_channels)
    if symbols.size and symbols.max() >= length:
        raise ValueError(
            f"expected symbols below {length}, the length of the tables, but got "
            f"{symbols.max()}: encode with the tables of the codec that quantised them"
        )
    lanes = num_lanes(channels * height * width)
    flat = np.ascontiguousarray(symbols).reshape(batch, channels, height * width)
    # At most one word a symbol: a symbol of frequency 1 costs 12.1 of a word's 16 bits.
    words = np.empty((batch, channels * height * width + 2 * lanes), dtype=np.uint16)
    begins = np.empty(batch, dtype=np.int64)
    _encode(flat, tables.frequencies, tables.starts, lanes, words, begins)
    return [row[begin:].astype("<u2").tobytes() for row, begin in zip(words, begins, strict=True)]


def decode(
    payloads: Sequence[bytes], tables: Tables, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Decode a batch; the inverse of `encode`, on any bytes whatsoever.

    The caller has checked that ``shape`` is plausible (`container.checked_size`).

    Args:
        payloads: B payloads of one shape.
        tables: those the payloads were coded with.
        shape: ``(C, h, w)`` of every stream.

    Returns:
        Symbols ``(B, C, h, w)``, each below L.

    Raises:
        BitstreamError: if a payload is not one that `encode` wrote for these tables and shape;
            ``index`` says which.
    """
    channels, height, width = shape
    assert channels == len(tables.frequencies), (channels, len(tables.frequencies))
    lanes = num_lanes(channels * height * width)
    for index, payload in enumerate(payloads):
        if len(payload) % 2 or len(payload) < 4 * lanes:
            raise _damaged(f"{len(payload)} bytes cannot be its length", index)
    words = np.frombuffer(b"".join(payloads), dtype="<u2").astype(np.uint16, copy=False)
    ends = np.cumsum([len(payload) // 2 for payload in payloads], dtype=np.int64)
    symbols = np.empty((len(payloads), channels, height * width), dtype=np.uint8)
    status = np.empty(len(payloads), dtype=np.uint8)
    _decode(words, ends, tables.lookup, lanes, symbols, status)
    if status.any():
        index = int(np.argmax(status != 0))
        raise _damaged(_FAULTS[status[index]], index)
    return symbols.reshape(len(payloads), *shape)


def _damaged(detail: str, index: int) -> BitstreamError:
    return BitstreamError(
        f"damaged or truncated: the entropy-coded payload does not decode ({detail}); "
        "copy the file or encode the picture again",
        index,
    )


def _constant(dtype: types.Type, ndim: int) -> types.Type:
    """Return the numba type of a C-ordered array that a kernel only reads."""
    return types.Array(dtype, ndim, "C", readonly=True)


@compiled(
    types.void(
        _constant(types.uint8, 3),
        _constant(types.uint16, 2),
        _constant(types.uint32, 2),
        types.int64,
        types.uint16[:, ::1],
        types.int64[::1],
    )
)
def _encode(
    symbols: NDArray[np.uint8],  # (B, C, h * w)
    frequencies: NDArray[np.uint16],  # (C, L)
    starts: NDArray[np.uint32],  # (C, L)
    lanes: int,
    words: NDArray[np.uint16],  # (B, capacity), each row filled from its end
    begins: NDArray[np.int64],  # (B,), where each row's payload starts
) -> None:
    """Encode every stream backwards, since rANS is last in, first out."""
    batch, channels, plane = symbols.shape
    states = np.empty(lanes, dtype=np.uint32)
    for b in range(batch):
        states[:] = STATE_LOW
        p = words.shape[1]
        for c in range(channels - 1, -1, -1):
            for j in range(plane - 1, -1, -1):
                s = symbols[b, c, j]
                frequency = np.uint32(frequencies[c, s])
                x = states[j & (lanes - 1)]
                if x >= np.uint32(frequency << _U20):
                    p -= 1
                    words[b, p] = x & _WORD
                    x >>= _U16
                quotient = np.uint32(x // frequency)
                rest = np.uint32(x - quotient * frequency)
                states[j & (lanes - 1)] = np.uint32((quotient << _U12) + rest + starts[c, s])
        for k in range(lanes - 1, -1, -1):
            p -= 2
            words[b, p] = states[k] & _WORD
            words[b, p + 1] = states[k] >> _U16
        begins[b] = p


@numba.njit(inline="always")
def _advance(x: np.uint32, entry: np.uint32) -> np.uint32:
    """Take a symbol out of a state; the result fits 32 bits because the state did."""
    return np.uint32((entry >> _U20) * (x >> _U12) + ((entry >> _U8) & _SLOT))


@numba.njit(inline="always")
def _refill(x: np.uint32, word: np.uint16, low: np.bool_) -> np.uint32:
    """Append the next word to a state that fell below 2**16."""
    return np.uint32((x << _U16) | word) if low else x


@compiled(
    types.void(
        _constant(types.uint16, 1),
        _constant(types.int64, 1),
        _constant(types.uint32, 2),
        types.int64,
        types.uint8[:, :, ::1],
        types.uint8[::1],
    )
)
def _decode(
    words: NDArray[np.uint16],  # all payloads, one after the other
    ends: NDArray[np.int64],  # (B,), where each ends; each holds all its states
    lookup: NDArray[np.uint32],  # (C, 4096)
    lanes: int,
    symbols: NDArray[np.uint8],  # (B, C, h * w), filled here
    status: NDArray[np.uint8],  # (B,), index into _FAULTS, filled here
) -> None:
    """Decode every stream, touching no word outside its own payload."""
    batch, channels, plane = symbols.shape
    states = np.empty(4, dtype=np.uint32)
    p = np.uint64(0)  # unsigned: numba then needs no test for negative indices
    for b in range(batch):
        end = np.uint64(ends[b])
        fault = 0
        for k in range(lanes):
            high = np.uint32(words[p + np.uint64(1)])
            states[k] = np.uint32(words[p] | (high << _U16))
            p += np.uint64(2)
            if states[k] < STATE_LOW:
                fault = 2
        for c in range(channels):
            row = lookup[c]
            out = symbols[b, c]
            j = 0
            if lanes == 4:
                x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
                while j + 4 <= plane and p + np.uint64(4) <= end:
                    e0, e1 = row[x0 & _SLOT], row[x1 & _SLOT]
                    e2, e3 = row[x2 & _SLOT], row[x3 & _SLOT]
                    out[j], out[j + 1] = e0 & _BYTE, e1 & _BYTE
                    out[j + 2], out[j + 3] = e2 & _BYTE, e3 & _BYTE
                    x0, x1 = _advance(x0, e0), _advance(x1, e1)
                    x2, x3 = _advance(x2, e2), _advance(x3, e3)
                    low = x0 < STATE_LOW
                    x0 = _refill(x0, words[p], low)
                    p += np.uint64(low)
                    low = x1 < STATE_LOW
                    x1 = _refill(x1, words[p], low)
                    p += np.uint64(low)
                    low = x2 < STATE_LOW
                    x2 = _refill(x2, words[p], low)
                    p += np.uint64(low)
                    low = x3 < STATE_LOW
                    x3 = _refill(x3, words[p], low)
                    p += np.uint64(low)
                    j += 4
                states[0], states[1], states[2], states[3] = x0, x1, x2, x3
            while j < plane and fault == 0:
                x = states[j & (lanes - 1)]
                entry = row[x & _SLOT]
                out[j] = entry & _BYTE
                x = _advance(x, entry)
                if x < STATE_LOW:
                    if p == end:
                        fault = 1
                        break
                    x = _refill(x, words[p], np.bool_(True))
                    p += np.uint64(1)
                states[j & (lanes - 1)] = x
                j += 1
        for k in range(lanes):
            if fault == 0 and states[k] != STATE_LOW:
                fault = 3
        if fault == 0 and p != end:
            fault = 4
        status[b] = fault
        p = end
