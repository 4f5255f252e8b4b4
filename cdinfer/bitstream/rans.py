"""The entropy coder, range asymmetric numeral systems (rANS): symbols <-> payload bytes.

    symbols (B, C, h, w) --encode--> B payloads --decode--> symbols (B, C, h, w)

Symbols are coded in the order (C, h, w); `context` says which row of the tables a symbol uses. A
payload is a sequence of 16-bit little-endian words: the coder's first state (low word, high word),
then the words that decoding asks for. Decoding a symbol from state x:

    slot   = x % 4096                        which symbol s owns this slot of the row?
    x      = frequency * (x // 4096) + slot - start
    if x < 2**16:  x = x * 2**16 + next word

After the last symbol the state must be back at 2**16, where the encoder started, and every word
must have been used; so a payload decodes to one set of symbols and no other payload does.

A stream has one state, so the smallest pays no more than two bytes for it. What is parallel is the
batch: four streams of one size advance side by side in one core, and threads take others.

    constant        value  meaning
    STATE_LOW       2**16  states lie in [2**16, 2**32); words have 16 bits

References:
    Duda, Asymmetric numeral systems, 2013, https://arxiv.org/abs/1311.2540 (range variant).
    Giesen, Interleaved entropy coders, 2014, https://arxiv.org/abs/1402.3392 (states side by side).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream import encoding, kernels, lookups
from cdinfer.bitstream.context import ContextModel
from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.tables import SCALE_BITS

#: Names the payload coding of this file and its contexts; part of every stream id.
CODER = b"rans-32-16-12-context-1"

Symbols = NDArray[np.uint8]

#: What a stream's status means; 0 is success.
_FAULTS = (
    "",
    "it ends early",
    "a coder state is out of range",
    "it does not end where its encoder began",
    "bytes are left over",
)


def encode(symbols: Symbols, model: ContextModel) -> list[bytes]:
    """Entropy-code a batch.

    Args:
        symbols: uint8 ``(B, C, h, w)``, each below its channel's size.
        model: of at least C channels; the first C are used.

    Returns:
        One payload per stream; the same whatever the batch it is coded in.

    Raises:
        ValueError: if a symbol has no entry in the tables.
    """
    return _encode(symbols, model, 0)


def decode(payloads: Sequence[bytes], model: ContextModel, shape: tuple[int, int, int]) -> Symbols:
    """Decode a batch; the inverse of `encode`, on any bytes whatsoever.

    The caller has checked that ``shape`` is plausible (`container.checked_size`).

    Args:
        payloads: B payloads of one shape.
        model: the one the payloads were coded with.
        shape: ``(C, h, w)`` of every stream.

    Returns:
        Symbols ``(B, C, h, w)``, each below its channel's size.

    Raises:
        BitstreamError: if a payload is not one that `encode` wrote for this model and shape;
            ``index`` says which.
    """
    channels, height, width = shape
    before = np.empty((len(payloads), 0, height, width), np.uint8)
    return decode_more(payloads, model, before, channels)


def encode_more(symbols: Symbols, model: ContextModel, first: int) -> list[bytes]:
    """Entropy-code channels ``first`` and up of ``symbols (B, C, h, w)``, as one group each.

    The channels before serve as context; a decoder must know them: `decode_more`.
    """
    return _encode(symbols, model, first)


def decode_more(
    payloads: Sequence[bytes], model: ContextModel, before: Symbols, channels: int
) -> Symbols:
    """Decode up to channel ``channels``, given those ``before (B, first, h, w)`` it.

    Returns:
        Symbols ``(B, channels, h, w)``, those before included.

    Raises:
        BitstreamError: as `decode` does.
    """
    for index, payload in enumerate(payloads):
        if len(payload) % 2 or len(payload) < 4:
            raise _damaged(f"{len(payload)} bytes cannot be its length", index)
    batch, first, height, width = before.shape
    assert len(payloads) == batch, (len(payloads), batch)
    if not payloads:
        return np.empty((0, channels, height, width), np.uint8)
    # A row of words more, since the kernel looks at where a stream ends once a row.
    padded = b"".join([*payloads, bytes(2 * width)])
    words = np.frombuffer(padded, dtype="<u2").astype(np.uint16, copy=False)
    ends = np.cumsum([len(payload) // 2 for payload in payloads], dtype=np.int64)
    symbols = np.empty((batch, channels, height, width), np.uint8)
    symbols[:, :first] = before
    lanes = kernels.LANES if batch > 1 else 1
    room = kernels.room(lookups.rule(model), channels, height, width, lanes)
    status = np.empty(batch, np.uint8)
    kernels.decode(
        *room, model.zeros, first, symbols.reshape(batch, channels, -1), width, words, ends,
        *lookups.decode_tables(model), status,
    )  # fmt: skip
    if status.any():
        index = int(np.argmax(status != 0))
        raise _damaged(_FAULTS[status[index]], index)
    return symbols


def ideal_bits(symbols: Symbols, model: ContextModel) -> NDArray[np.float64]:
    """Return what symbols cost under a model's tables, in bits per stream: ``(B,)``.

    Args:
        symbols: ``(B, C, h, w)``, each below its channel's size.
        model: of at least C channels.
    """
    rows = contexts(symbols, model)
    with np.errstate(divide="ignore"):
        costs = SCALE_BITS - np.log2(model.frequencies, dtype=np.float64)
    return np.asarray(costs[rows, symbols].sum(axis=(1, 2, 3)))


def contexts(symbols: Symbols, model: ContextModel) -> NDArray[np.uint16]:
    """Return the row of the tables that codes each of ``symbols (B, C, h, w)``: same shape."""
    _check(symbols, model)
    return _rows(symbols, model, 0).reshape(symbols.shape)


def _encode(symbols: Symbols, model: ContextModel, first: int) -> list[bytes]:
    _check(symbols, model)
    batch = len(symbols)
    if not batch:
        return []
    rows = _rows(symbols, model, first)
    flat = np.ascontiguousarray(symbols[:, first:]).reshape(batch, -1)
    # At most one word a symbol: a symbol of frequency 1 costs 12.1 of a word's 16 bits.
    words = np.empty((batch, flat.shape[1] + 2), np.uint16)
    begins = np.empty(batch, np.int64)
    _, places, entries = lookups.encode_tables(model)
    encoding.encode(flat, rows.reshape(batch, -1), places, entries, words, begins)
    return [row[begin:].astype("<u2").tobytes() for row, begin in zip(words, begins, strict=True)]


def _rows(symbols: Symbols, model: ContextModel, first: int) -> NDArray[np.uint16]:
    """Return the rows of the tables, ``(B, C - first, h * w)``, for channels ``first`` and up."""
    batch, channels, height, width = symbols.shape
    rows = np.empty((batch, channels - first, height * width), np.uint16)
    flat = np.ascontiguousarray(symbols).reshape(batch, channels, -1)
    lookup = lookups.encode_tables(model)[0]
    room = kernels.room(lookups.rule(model), channels, height, width, 1)
    kernels.contexts(*room, lookup, model.zeros, first, flat, rows, width)
    return rows


def _check(symbols: Symbols, model: ContextModel) -> None:
    assert symbols.dtype == np.uint8, symbols.dtype
    assert symbols.shape[1] <= len(model.sizes), (symbols.shape, len(model.sizes))
    if not symbols.size:
        return
    excess = symbols.max(axis=(0, 2, 3)) >= model.sizes[: symbols.shape[1]]
    if excess.any():
        channel = int(np.argmax(excess))
        raise ValueError(
            f"expected symbols below {model.sizes[channel]} in channel {channel}, the length of "
            f"its tables, but got {symbols[:, channel].max()}: encode with the tables of the "
            "codec that quantised them"
        )


def _damaged(detail: str, index: int) -> BitstreamError:
    return BitstreamError(
        f"damaged or truncated: the entropy-coded payload does not decode ({detail}); "
        "copy the file or encode the picture again",
        index,
    )
