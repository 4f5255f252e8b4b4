"""The loop that encodes symbols, compiled with numba: `rans` says what it computes.

All arrays are C-ordered; `lookups` says what ``places`` and ``entries`` hold.
"""

import numpy as np
from numba import types

from cdinfer.bitstream.jit import compiled, constant

STATE_LOW = np.uint32(1 << 16)
_U8, _U12, _U16, _U20 = np.uint32(8), np.uint32(12), np.uint32(16), np.uint32(20)
_START, _WORD = np.uint32(0xFFF), np.uint32(0xFFFF)


@compiled(
    types.void(
        constant(types.uint8, 2),
        constant(types.uint16, 2),
        constant(types.uint16, 1),
        constant(types.uint32, 1),
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
            x = np.uint32((quotient << _U12) + rest + (entry >> _U8 & _START))
        p -= 2
        words[b, p] = x & _WORD
        words[b, p + 1] = x >> _U16
        begins[b] = p
