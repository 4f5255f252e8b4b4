"""Symbols <-> complete ``.cdi`` files, a batch at a time.

    symbols (B, C, h, w) --rANS--> payloads --header, CRCs--> files, and back

Every file is checked against the codec's letters, its stream id and the size its tables allow
before anything large is allocated.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream import container, rans
from cdinfer.bitstream.container import MAX_PIXELS, Parsed
from cdinfer.bitstream.context import ContextModel
from cdinfer.bitstream.header import Header

Symbols = NDArray[np.uint8]


def write_files(
    symbols: Symbols, header: Header, model: ContextModel, groups: tuple[int, ...] | None = None
) -> list[bytes]:
    """Return one complete file for each of ``symbols (B, C, h, w)``.

    Args:
        symbols: uint8, of all the model's channels.
        header: of every file, but for its groups.
        model: the codec's.
        groups: numbers of channels of each group, summing to C; None: one group.

    Raises:
        ValueError: if a symbol has no entry in the tables, or the groups have not C channels.
    """
    groups = (symbols.shape[1],) if groups is None else groups
    if min(groups, default=0) < 1 or sum(groups) != symbols.shape[1]:
        raise ValueError(
            f"expected channel groups that sum to {symbols.shape[1]} channels, got {groups}"
        )
    header = header._replace(groups=groups if len(groups) > 1 else ())
    payloads, first = [], 0
    for last in header.ends(symbols.shape[1]):
        payloads.append(rans.encode_more(symbols[:, :last], model, first))
        first = last
    return [
        container.pack(header, plane, *parts)
        for plane, *parts in zip(symbols, *payloads, strict=True)
    ]


def read_files(
    data: Sequence[bytes | Parsed],
    letters: str,
    stream: int,
    model: ContextModel,
    stride: int,
    max_pixels: int = MAX_PIXELS,
    groups: int | None = None,
) -> tuple[Symbols, list[tuple[int, int]]]:
    """Return symbols ``(B, C, h, w)`` and pixel sizes ``(height, width)`` of ``data``.

    Args:
        data: complete files, or what `parse` makes of them, each with its place as ``index``.
        letters: the codec's.
        stream: its stream id.
        model: its tables.
        stride: pixels per latent, each way.
        max_pixels: largest picture to decode.
        groups: read only the channels of so many channel groups, 1 or more; the files may end
            behind these. None reads all.

    Raises:
        BitstreamError: naming what is wrong; ``index`` tells which file of ``data``.
        ValueError: if the files have different latent sizes or groups, or there are none.
    """
    parsed = [_parsed(file, letters, stream, groups, index) for index, file in enumerate(data)]
    sizes = {container.checked_size(file, model, stride, max_pixels) for file in _shortest(parsed)}
    if len(sizes) != 1:
        raise ValueError(f"expected files of one latent size in a call, got {sorted(sizes)}")
    divisions = {file.header.groups for file in parsed}
    if len(divisions) != 1:
        raise ValueError(f"expected files of the same groups in a call, got {sorted(divisions)}")
    symbols = np.empty((len(parsed), 0, *sizes.pop()), np.uint8)
    ends = parsed[0].header.ends(len(model.sizes))
    for k, last in enumerate(ends[: len(parsed[0].payloads)]):
        symbols = rans.decode_more([file.payloads[k] for file in parsed], model, symbols, last)
    for file, plane in zip(parsed, symbols, strict=True):
        container.verify(file, plane)
    return symbols, [(file.header.height, file.header.width) for file in parsed]


def _parsed(
    file: bytes | Parsed, letters: str, stream: int, groups: int | None, index: int
) -> Parsed:
    if isinstance(file, Parsed):
        if (file.header.codec, file.header.stream, groups) == (letters, stream, None):
            return file
        file = container.rebuild(file.header, file.crcs, file.payloads)
    return container.parse(
        file, expect_codec=letters, expect_stream=stream, groups=groups, index=index
    )


def _shortest(parsed: Sequence[Parsed]) -> list[Parsed]:
    """Return the files to ask for their size: of one group, the shortest with each header.

    A size that fits the shortest payload fits the others.
    """
    chosen: dict[Header, Parsed] = {}
    several = []
    for file in parsed:
        if file.header.groups:
            several.append(file)
            continue
        other = chosen.get(file.header)
        if other is None or len(file.payloads[0]) < len(other.payloads[0]):
            chosen[file.header] = file
    return [*chosen.values(), *several]
