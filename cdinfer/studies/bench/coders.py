"""Entropy coders behind one pair of functions: ours, and the peers' as their users run them.

    symbols (B, C, h, w) uint8 --encode--> B payloads --decode--> the same symbols

coder               tables                          how it is run
ours                static, or the context model    `bitstream.rans`, a batch in a call
constriction        static, at its own 24 bits      ANS, a call for each channel of a picture
CompressAI          static, at its own 16 bits      `EntropyBottleneck`: `EntropyModel.compress` and
                                                    `decompress`, Python lists and all
zstd                its own                         level 19; two symbols in a byte where the
                                                    alphabet allows it
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray

from cdinfer.bitstream import rans
from cdinfer.bitstream.context import ContextModel, static_model
from cdinfer.bitstream.tables import SCALE, build_tables
from cdinfer.studies.bench import peers

Symbols = NDArray[np.uint8]

#: A peer's name in rows -> its module. zstd comes with imagecodecs.
PEERS = {
    "constriction per channel": "constriction",
    "CompressAI": "compressai.entropy_models",
    "zstd -19": "imagecodecs",
}

#: Symbols that half a byte can tell apart.
NIBBLE = 16


Decode = Callable[[Sequence[Any]], Any]


class Coder(NamedTuple):
    """Both directions. What ``decode`` returns equals the symbols, in a type of the coder's own."""

    encode: Callable[[Symbols], list[Any]]
    decode: Decode


def fit_static(symbols: Symbols) -> ContextModel:
    """Return the static tables, one a channel, that fit ``symbols (B, C, h, w)`` best."""
    length = max(int(symbols.max()) + 1, 2)
    rows = [np.bincount(s.ravel(), minlength=length) for s in symbols.swapaxes(0, 1)]
    return static_model(build_tables(np.stack(rows)))


def ours(model: ContextModel, shape: tuple[int, int, int]) -> Coder:
    """Return our coder of pictures of ``(C, h, w)`` symbols."""
    return Coder(
        lambda symbols: rans.encode(symbols, model),
        lambda payloads: rans.decode(payloads, model, shape),
    )


def make_peer(name: str, static: ContextModel, shape: tuple[int, int, int]) -> Coder | None:
    """Return a coder of ``PEERS``, or ``None`` where it is not installed."""
    module = peers.find(PEERS[name])
    if module is None:
        return None
    if name.startswith("constriction"):
        return _constriction(module, static, shape)
    return _compressai(module, static, shape) if name == "CompressAI" else _zstd(static, shape)


def _constriction(module: Any, static: ContextModel, shape: tuple[int, int, int]) -> Coder:  # noqa: ANN401
    new = module.stream.stack.AnsCoder
    models = [
        module.stream.model.Categorical(row / np.float32(SCALE), perfect=False)
        for row in static.frequencies
    ]

    def encode(symbols: Symbols) -> list[Any]:
        payloads = []
        for planes in symbols.reshape(len(symbols), shape[0], -1).astype(np.int32):
            coder = new()
            for plane, model in zip(planes[::-1], models[::-1], strict=True):
                coder.encode_reverse(plane, model)
            payloads.append(coder.get_compressed())
        return payloads

    def decode(payloads: Sequence[Any]) -> NDArray[np.int32]:
        count = shape[1] * shape[2]
        symbols = np.empty((len(payloads), shape[0], count), np.int32)
        for planes, payload in zip(symbols, payloads, strict=True):
            coder = new(payload)
            for channel, model in enumerate(models):
                planes[channel] = coder.decode(model, count)
        return symbols.reshape(-1, *shape)

    return Coder(encode, decode)


def _compressai(module: Any, static: ContextModel, shape: tuple[int, int, int]) -> Coder:  # noqa: ANN401
    channels, length = static.frequencies.shape
    # Of 2**16; one unit is for its escape symbol, at the end.
    scaled = static.frequencies.astype(np.int64) * 16
    scaled[np.arange(channels), scaled.argmax(1)] -= 1
    bounds = np.concatenate([np.zeros((channels, 1)), scaled.cumsum(1)], axis=1)
    bounds = np.concatenate([bounds, np.full((channels, 1), 2**16)], axis=1)
    model = module.EntropyBottleneck(channels)
    model._quantized_cdf = torch.from_numpy(bounds.astype(np.int32))
    model._cdf_length = torch.full((channels,), length + 2, dtype=torch.int32)
    model._offset = torch.zeros(channels, dtype=torch.int32)
    return Coder(
        lambda symbols: list(model.compress(torch.from_numpy(symbols).float())),
        lambda payloads: model.decompress(payloads, shape[1:]),
    )


def _zstd(static: ContextModel, shape: tuple[int, int, int]) -> Coder:
    size = int(np.prod(shape))
    pairs = static.frequencies.shape[1] <= NIBBLE and size % 2 == 0

    def encode(symbols: Symbols) -> list[Any]:
        flat = symbols.reshape(len(symbols), -1)
        packed = (flat[:, ::2] << 4 | flat[:, 1::2]).astype(np.uint8) if pairs else flat
        return [imagecodecs.zstd_encode(row.tobytes(), level=19) for row in packed]

    def decode(payloads: Sequence[Any]) -> Symbols:
        data = b"".join([imagecodecs.zstd_decode(payload) for payload in payloads])
        flat = np.frombuffer(data, np.uint8)
        if pairs:
            flat = np.stack([flat >> 4, flat & 15], axis=1)
        return flat.reshape(-1, *shape)

    return Coder(encode, decode)
