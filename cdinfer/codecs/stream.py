"""Symbols <-> complete ``.cdi`` files, for codecs with one plane and static tables.

    symbols (B, C, h, w) --rANS--> payloads --header, CRC--> files, and back

This is where a codec's identity meets the container: every file is checked against the codec's
letters, its stream id and the size its tables allow before anything large is allocated.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cdinfer.bitstream import container, rans
from cdinfer.bitstream.container import Header
from cdinfer.bitstream.tables import Tables

Symbols = NDArray[np.uint8]


def identity(letters: str, centers: Tensor, tables: Tables) -> int:
    """Return the stream id of scalar-quantised symbols under static tables."""
    values = centers.detach().float().cpu().numpy().astype("<f4")
    frequencies = tables.frequencies.astype("<u2")
    shape = struct.pack("<2I", *frequencies.shape)
    return container.stream_id(
        letters.encode("ascii"), rans.CODER, values.tobytes(), shape, frequencies.tobytes()
    )


def write(symbols: Symbols, header: Header, tables: Tables) -> list[bytes]:
    """Return one complete file for each of ``symbols (B, C, h, w)``."""
    payloads = rans.encode(symbols, tables)
    return [
        container.pack(header, plane, payload)
        for plane, payload in zip(symbols, payloads, strict=True)
    ]


def read(
    data: Sequence[bytes],
    letters: str,
    stream: int,
    tables: Tables,
    stride: int,
    max_pixels: int,
) -> tuple[Symbols, list[tuple[int, int]]]:
    """Return symbols ``(B, C, h, w)`` and pixel sizes ``(height, width)`` of ``data``.

    Raises:
        BitstreamError: naming what is wrong; ``index`` tells which file of ``data``.
        ValueError: if the files have different latent sizes, or there are none.
    """
    parsed = [
        container.parse(file, expect_codec=letters, expect_stream=stream, index=index)
        for index, file in enumerate(data)
    ]
    sizes = {container.checked_size(file, tables, stride, max_pixels) for file in parsed}
    if len(sizes) != 1:
        raise ValueError(f"expected files of one latent size in a call, got {sorted(sizes)}")
    shape = (len(tables.frequencies), *sizes.pop())
    symbols = rans.decode([file.payload for file in parsed], tables, shape)
    for file, plane in zip(parsed, symbols, strict=True):
        container.verify(file, plane)
    return symbols, [(file.header.height, file.header.width) for file in parsed]
