"""The ``.cdi`` file: one picture, one header, one payload.

    field     bytes  meaning
    magic       4    b"CDI0"; the digit is the version of the format
    codec       4    capital letters, digits or "_", naming the codec, e.g. b"CAE_"
    stream      4    stream id: what is needed to read symbols and give them meaning
    height      2    height of the picture in pixels; 0: it stands in height32
    width       2    width of the picture in pixels; 0: it stands in width32
    height32   0/4   only if height is 0; at least 65,536
    width32    0/4   only if width is 0; at least 65,536
    flags       1    bit 0: provisional tables, written while the codec was still training
    groups      1    number of channel groups: 1
    crc         4    CRC-32 of all bytes before this field, then of the decoded symbols
    payload     -    entropy-coded symbols, to the end of the file

Integers are little endian; the header has 22 bytes for sides below 65,536. Each header is written
in one way only, and the checksum covers it and the *symbols*, so any changed bit and any missing
byte ends in an error, never in a wrong picture. Codecs are named, never numbered, so adding one
cannot change the meaning of an old file. The rate of a file is ``8 * size / (height * width)``,
header included.

A codec reads a file as ``parse`` -> ``checked_size`` -> its entropy decoder -> ``verify``.
"""

import hashlib
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.tables import Tables

MAGIC = b"CDI0"
PROVISIONAL = 1
MAX_PIXELS = 512 * 2**20

_FIXED = struct.Struct("<4s4sIHH")
_SIDE = struct.Struct("<I")
_TAIL = struct.Struct("<BB")
_CRC = struct.Struct("<I")
_CODEC = re.compile(rb"[A-Z0-9_]{4}")
_AGAIN = "copy the file or encode the picture again"


class Header(NamedTuple):
    """What a decoder must know before it reads the payload.

    Sides are in pixels, 1 to 2**32 - 1; ``stream`` is a `stream_id`.
    """

    codec: str
    stream: int
    height: int
    width: int
    provisional: bool = False


@dataclass(frozen=True)
class Parsed:
    """A file taken apart; the payload is not decoded and nothing is verified yet.

    ``index`` is the file's place in its batch, or None; every error about the file carries it.
    """

    header: Header
    crc: int
    payload: bytes
    index: int | None = None


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


def pack(header: Header, symbols: NDArray[np.uint8], payload: bytes) -> bytes:
    """Return the bytes of a ``.cdi`` file.

    Args:
        header: as described there.
        symbols: uint8 ``(C, h, w)``, what the payload decodes to.
        payload: from `rans.encode`.
    """
    start = _pack_header(header)
    return start + _CRC.pack(_checksum(start, symbols)) + payload


def rebuild(header: Header, crc: int, payload: bytes) -> bytes:
    """Return the file that `parse` took apart, byte for byte; nothing is verified."""
    return _pack_header(header) + _CRC.pack(crc) + payload


def parse(
    data: bytes,
    *,
    expect_codec: str | None = None,
    expect_stream: int | None = None,
    index: int | None = None,
) -> Parsed:
    """Split a ``.cdi`` file into header, checksum and payload.

    Args:
        data: the whole file.
        expect_codec: refuse files of other codecs.
        expect_stream: refuse files of other stream ids.
        index: place of the file in its batch, for errors.

    Raises:
        BitstreamError: if ``data`` is not a ``.cdi`` file, is of a newer version, of another
            codec or stream, or has no whole header.
    """
    if not MAGIC[:3].startswith(data[:3]):
        raise BitstreamError(
            f"not a .cdi file: expected it to start with {MAGIC!r}, got {data[:4]!r}; "
            "make one with: cdinfer encode IMAGE",
            index,
        )
    if data[3:4] not in (b"", MAGIC[3:]):
        raise _newer(f"its format is {data[:4]!r}, not {MAGIC!r}", index)
    try:
        header, crc, end = _unpack_header(data, index)
    except struct.error:
        raise BitstreamError(
            f"truncated: the file ends after {len(data)} bytes, inside its header; {_AGAIN}", index
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
    return Parsed(header, crc, bytes(data[end:]), index)


def checked_size(
    parsed: Parsed, tables: Tables, stride: int, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Return the latents' size ``(h, w)``, once it is safe to allocate.

    Args:
        parsed: from `parse`.
        tables: the codec's.
        stride: pixels per latent, each way; sides are rounded up to it.
        max_pixels: largest picture to decode.

    Raises:
        BitstreamError: if the picture has more than ``max_pixels``, or more than its payload can
            hold: no valid stream spends fewer than 7/8 of ``min_bits`` on a symbol, because
            rounding in the coder (states of 16 frequencies or more) loses at most 1/16 of the
            ideal cost of a symbol and less than 1 % of a word.
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
    num_symbols = len(tables.frequencies) * height * width
    if num_symbols * tables.min_bits * 7 / 8 > 8 * len(parsed.payload):
        raise BitstreamError(
            f"damaged or truncated: {header.height} x {header.width} pixels cannot fit in a "
            f"payload of {len(parsed.payload):,} bytes; {_AGAIN}",
            parsed.index,
        )
    return height, width


def verify(parsed: Parsed, symbols: NDArray[np.uint8]) -> None:
    """Compare a file's checksum with its header and decoded symbols.

    Args:
        parsed: from `parse`.
        symbols: uint8 ``(C, h, w)``, decoded from the payload.

    Raises:
        BitstreamError: if they differ.
    """
    if _checksum(_pack_header(parsed.header), symbols) != parsed.crc:
        raise BitstreamError(
            "damaged: the checksum does not match the header and the decoded symbols; " + _AGAIN,
            parsed.index,
        )


def _checksum(start: bytes, symbols: NDArray[np.uint8]) -> int:
    assert symbols.dtype == np.uint8, symbols.dtype
    return zlib.crc32(np.ascontiguousarray(symbols).data, zlib.crc32(start))


def _pack_header(header: Header) -> bytes:
    """Return all header bytes before the checksum."""
    sides = (header.height, header.width)
    assert all(1 <= side < 1 << 32 for side in sides), sides
    assert _CODEC.fullmatch(header.codec.encode("ascii")), header.codec
    short = [side if side < 1 << 16 else 0 for side in sides]
    fixed = _FIXED.pack(MAGIC, header.codec.encode("ascii"), header.stream, *short)
    long = b"".join(_SIDE.pack(side) for side in sides if side >= 1 << 16)
    return fixed + long + _TAIL.pack(PROVISIONAL * header.provisional, 1)


def _unpack_header(data: bytes, index: int | None) -> tuple[Header, int, int]:
    """Return header, checksum and where the payload starts.

    Raises:
        struct.error: if the data end before the payload starts.
    """
    _, codec, stream, *sides = _FIXED.unpack_from(data)
    end = _FIXED.size
    for axis in range(2):
        if sides[axis] == 0:
            (sides[axis],) = _SIDE.unpack_from(data, end)
            end += _SIDE.size
            if sides[axis] < 1 << 16:
                raise BitstreamError(f"damaged: a side of the picture is 0; {_AGAIN}", index)
    flags, groups = _TAIL.unpack_from(data, end)
    end += _TAIL.size
    (crc,) = _CRC.unpack_from(data, end)
    if not _CODEC.fullmatch(codec):
        raise BitstreamError(f"damaged: {codec!r} is not the name of a codec; {_AGAIN}", index)
    if flags & ~PROVISIONAL:
        raise _newer(f"it carries flags {flags:#04x} that are not known here", index)
    if groups != 1:
        raise _newer(f"it has {groups} channel groups, not 1", index)
    header = Header(codec.decode("ascii"), stream, sides[0], sides[1], bool(flags & PROVISIONAL))
    return header, crc, end + _CRC.size


def _newer(detail: str, index: int | None) -> BitstreamError:
    return BitstreamError(
        f"written by a newer cdinfer, or damaged: {detail}; update cdinfer, or copy the file again",
        index,
    )
