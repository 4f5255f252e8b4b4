"""The ``.cdi`` file: one picture, one header, the payloads of its channel groups.

    field     bytes  meaning
    magic       4    b"CDI1"; the digit is the version of the format
    codec       4    capital letters, digits or "_", naming the codec, e.g. b"CAE_"
    stream      4    stream id: what is needed to read symbols and give them meaning
    height      2    height of the picture in pixels; 0: it stands in height32
    width       2    width of the picture in pixels; 0: it stands in width32
    height32   0/4   only if height is 0; at least 65,536
    width32    0/4   only if width is 0; at least 65,536
    flags       1    bit 0: provisional tables, written while the codec was still training
                     bit 1: there are fields
    groups      1    number of channel groups n, 1 to 255
    table     0/5n   only if n > 1; of each group: its channels, 1 byte, and its payload's length, 4
    fields      -    only with bit 1: their number, 1 byte, at least 1; of each: a tag of 4 capital
                     letters, digits or "_", none twice, the content's length, 4 bytes, the content
    crcs       4n    of each group: CRC-32 of all bytes before crcs, then of the group's symbols
    payloads    -    of each group, one after the other: entropy-coded symbols, to the file's end

Integers are little endian; the header has 22 bytes for one group, no fields and sides below 65,536.
Each header is written in one way only, and the checksums cover it and the *symbols*, so any changed
bit and any missing byte ends in an error, never in a wrong picture. Codecs are named, never
numbered, so adding one cannot change the meaning of an old file. The rate of a file is
``8 * size / (height * width)``, header included. FORMAT.md has the same in words, and the payloads.

Fields say what a picture is accompanied by: ``EXIF`` and ``ICCP`` (colour profile) as other formats
store them. Decoders pass over tags they do not know.

One group holds all channels of the codec. Several hold one run of channels each, and may use those
of earlier groups as context: the first k decode without the rest, even from a file that ends behind
them, if asked for (``parse(groups=k)``); otherwise such a file is refused as truncated.

A codec reads a file as ``parse`` -> ``checked_size`` -> its entropy decoder -> ``verify``.
"""

import functools
import hashlib
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.context import ContextModel
from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.header import AGAIN, MAGIC, damaged, newer, pack_header, unpack_header
from cdinfer.bitstream.header import Header as Header

MAX_PIXELS = 512 * 2**20

_CRC = struct.Struct("<I")

CRC32 = Callable[[memoryview, int], int]


@dataclass(frozen=True)
class Parsed:
    """A file taken apart; no payload is decoded and nothing is verified yet.

    ``start`` is what all checksums cover: the bytes before them. There is one checksum and one
    payload for each group that was asked for. ``index`` is the file's place in its batch, or None;
    every error about the file carries it.
    """

    header: Header
    start: bytes
    crcs: tuple[int, ...]
    payloads: tuple[bytes, ...]
    index: int | None = None

    @property
    def payload(self) -> bytes:
        """Payloads of all groups, one after the other."""
        return b"".join(self.payloads)


def stream_id(*parts: bytes) -> int:
    """Return the 32-bit identity of what gives symbols their meaning.

    The first four bytes, little endian, of the SHA-256 over all parts, each after its length as
    eight bytes, little endian.

    >>> f"{stream_id(b'CAE_', b'tables'):08x}"
    '1d231a09'
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return int.from_bytes(digest.digest()[:4], "little")


def pack(header: Header, symbols: NDArray[np.uint8], *payloads: bytes) -> bytes:
    """Return the bytes of a ``.cdi`` file.

    Args:
        header: as described there.
        symbols: uint8 ``(C, h, w)``, what the payloads decode to.
        payloads: one for each group, from `rans.encode` or `rans.encode_more`.
    """
    start = pack_header(header, payloads)
    crcs = _checksums(start, symbols, header.ends(len(symbols)))
    return start + b"".join(map(_CRC.pack, crcs)) + b"".join(payloads)


def rebuild(header: Header, crcs: Sequence[int], payloads: Sequence[bytes]) -> bytes:
    """Return the file that `parse` took apart, byte for byte; nothing is verified."""
    start = pack_header(header, payloads)
    return start + b"".join(map(_CRC.pack, crcs)) + b"".join(payloads)


def parse(
    data: bytes,
    *,
    expect_codec: str | None = None,
    expect_stream: int | None = None,
    groups: int | None = None,
    index: int | None = None,
) -> Parsed:
    """Split a ``.cdi`` file into header, checksums and payloads.

    Args:
        data: the whole file.
        expect_codec: refuse files of other codecs.
        expect_stream: refuse files of other stream ids.
        groups: take only so many channel groups, 1 or more, and pass over what follows them,
            whether it is whole or not; None takes all.
        index: place of the file in its batch, for errors.

    Raises:
        BitstreamError: if ``data`` is not a ``.cdi`` file, is of another version, of another
            codec or stream, has no whole header, or not as many whole groups.
    """
    if not MAGIC[:3].startswith(data[:3]):
        raise BitstreamError(
            f"not a .cdi file: expected it to start with {MAGIC!r}, got {data[:4]!r}; "
            "make one with: cdinfer encode IMAGE",
            index,
        )
    if data[3:4] == b"0":
        raise BitstreamError(
            f"its format is {data[:4]!r}, used before {MAGIC!r} and no longer read, or it is "
            f"damaged; {AGAIN}",
            index,
        )
    if data[3:4] not in (b"", MAGIC[3:]):
        raise newer(f"its format is {data[:4]!r}, not {MAGIC!r}", index)
    try:
        header, lengths, crcs, end = unpack_header(data, index)
    except struct.error:
        raise BitstreamError(
            f"truncated: the file ends after {len(data)} bytes, inside its header; {AGAIN}", index
        ) from None
    if expect_codec not in (None, header.codec):
        raise BitstreamError(
            f"wrong codec: expected a file of codec {expect_codec}, got one of {header.codec}; "
            "give the codec that wrote it with --codec",
            index,
        )
    if expect_stream not in (None, header.stream):
        raise BitstreamError(
            f"wrong stream: expected stream id {expect_stream:08x}, got {header.stream:08x}, "
            f"another {header.codec} codec; give the one that wrote the file with --codec",
            index,
        )
    start, payloads = bytes(data[: end - _CRC.size * len(crcs)]), bytes(data[end:])
    if header.groups:
        parts = _split(payloads, lengths, groups, index)
    elif groups not in (None, 1):
        raise _too_few(1, groups, index)
    else:
        parts = [payloads]
    return Parsed(header, start, tuple(crcs[: len(parts)]), tuple(parts), index)


def checked_size(
    parsed: Parsed, model: ContextModel, stride: int, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Return the latents' size ``(h, w)``, once it is safe to allocate.

    Args:
        parsed: from `parse`.
        model: the codec's.
        stride: pixels per latent, each way; sides are rounded up to it.
        max_pixels: largest picture to decode.

    Raises:
        BitstreamError: if the picture has more than ``max_pixels``, the groups have not the
            model's channels, or there are more symbols than the payload of a group can hold. No
            valid payload has fewer than 7/8 of the bits that its symbols cost at least, whatever
            their contexts (`ContextModel.least_bits`): a symbol of probability p is put into a
            state of 16 times its frequency or more, where rounding loses less than (1 - p) / 16 of
            the new state, so less than 1/16 of ``-log2(p)`` bits; and a state that gives a word
            away loses less than log2(17/16) of its 16 bits.
    """
    header = parsed.header
    pixels = header.height * header.width
    if pixels > max_pixels:
        raise BitstreamError(
            f"too large: {header.height} x {header.width} pixels, more than the {max_pixels:,} "
            f"allowed; if you trust the file, allow it with --max-pixels {pixels}",
            parsed.index,
        )
    height, width = math.ceil(header.height / stride), math.ceil(header.width / stride)
    ends = header.ends(len(model.sizes))
    if ends[-1] != len(model.sizes):
        raise BitstreamError(
            f"damaged: its groups have {ends[-1]} channels, its codec has {len(model.sizes)}; "
            + AGAIN,
            parsed.index,
        )
    for first, last, payload in zip([0, *ends], ends, parsed.payloads, strict=False):
        if height * width * model.least_bits[first:last].sum() * 7 / 8 > 8 * len(payload):
            raise BitstreamError(
                f"damaged or truncated: {header.height} x {header.width} pixels cannot fit in a "
                f"payload of {len(payload):,} bytes; {AGAIN}",
                parsed.index,
            )
    return height, width


def verify(parsed: Parsed, symbols: NDArray[np.uint8]) -> None:
    """Compare a file's checksums with its header and decoded symbols.

    Args:
        parsed: from `parse`.
        symbols: uint8 ``(C, h, w)``, decoded from the payloads.

    Raises:
        BitstreamError: if they differ.
    """
    ends = parsed.header.ends(len(symbols))[: len(parsed.crcs)]
    if _checksums(parsed.start, symbols, ends, _quick_crc32()) != [*parsed.crcs]:
        raise BitstreamError(
            "damaged: the checksum does not match the header and the decoded symbols; " + AGAIN,
            parsed.index,
        )


def _checksums(
    start: bytes, symbols: NDArray[np.uint8], ends: list[int], crc32: CRC32 = zlib.crc32
) -> list[int]:
    assert symbols.dtype == np.uint8, symbols.dtype
    assert ends[-1] == len(symbols), (ends, symbols.shape)
    crc = zlib.crc32(start)
    return [
        crc32(np.ascontiguousarray(symbols[first:last]).reshape(-1).data, crc)
        for first, last in zip([0, *ends], ends, strict=False)
    ]


@functools.cache
def _quick_crc32() -> CRC32:
    """Return libdeflate's CRC-32, three times as fast as zlib's, if imagecodecs has it."""
    try:
        from imagecodecs import deflate_crc32

        deflate_crc32(b"")
    except ImportError:
        return zlib.crc32
    return cast(CRC32, deflate_crc32)


def _split(
    payloads: bytes, lengths: list[int], groups: int | None, index: int | None
) -> list[bytes]:
    """Return the payloads of the first ``groups``, or of all and nothing else."""
    wanted = len(lengths) if groups is None else groups
    if wanted > len(lengths):
        raise _too_few(len(lengths), wanted, index)
    assert wanted >= 1, wanted
    ends = list(itertools.accumulate(lengths))
    if ends[wanted - 1] > len(payloads):
        whole = sum(end <= len(payloads) for end in ends)
        raise BitstreamError(
            f"truncated: the file ends inside channel group {whole + 1} of {len(lengths)}; "
            + (f"{AGAIN}, or ask for groups={whole}" if whole else AGAIN),
            index,
        )
    if groups is None and ends[-1] < len(payloads):
        excess = len(payloads) - ends[-1]
        raise damaged(f"{excess} bytes are left over behind its last channel group", index)
    return [
        payloads[end - length : end] for end, length in zip(ends[:wanted], lengths, strict=False)
    ]


def _too_few(have: int, wanted: int, index: int | None) -> BitstreamError:
    return BitstreamError(
        f"asked for groups={wanted}, but the file has {have} of them; ask for at most {have}", index
    )
