"""Many bitstreams in one piece of bytes: what a member of a shard holds.

One tar member a bitstream would triple a set of 600-byte files, so shards hold blocks:

    field     bytes    meaning
    magic       4      b"CDB0"
    codec       4      as in a .cdi file
    stream      4      stream id
    count       4      number of files n, at least 1
    least       4      bytes of the shortest payload
    bits        1      bits of a number in lengths, 0 to 32
    sized       1      1: the files have several sizes; 0: one
    sizes     8 or 8n  height, width in pixels, 4 bytes each
    crcs        4n     each file's checksum
    lengths   bits*n/8 bytes that each payload has more than the shortest, low bits first
    payloads    -      one after the other

Integers are little endian. Each block is written in one way only, and each file can be rebuilt
byte for byte: a block leaves out only what its files share. They have one channel group and no
fields, and no provisional tables.
"""

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.container import Parsed, parse, rebuild
from cdinfer.bitstream.header import Header, pack_header

MAGIC = b"CDB0"
_START = struct.Struct("<4s4sIIIBB")
_CODEC = re.compile(rb"[A-Z0-9_]{4}")

#: Bytes a file takes at least: its checksum.
LEAST = 4


def join(files: Sequence[bytes]) -> bytes:
    """Return the block of complete ``.cdi`` files of one codec and stream, at least one.

    Raises:
        ValueError: if a file has several channel groups, or fields.
    """
    parsed = [parse(file) for file in files]
    headers = [file.header for file in parsed]
    assert len({(h.codec, h.stream, h.provisional) for h in headers}) == 1
    assert not headers[0].provisional, "only frozen codecs write sets"
    if any(h.groups or h.fields for h in headers):
        raise ValueError(
            "expected files of one channel group, without fields such as EXIF, got others: "
            "sets hold no more than networks read; encode the pictures without them"
        )
    sizes = np.array([(h.height, h.width) for h in headers], "<u4")
    least, bits, lengths = _pack(np.array([len(file.payload) for file in parsed]))
    sized = bool((sizes != sizes[0]).any())
    codec = headers[0].codec.encode("ascii")
    return b"".join(
        [
            _START.pack(MAGIC, codec, headers[0].stream, len(files), least, bits, sized),
            (sizes if sized else sizes[:1]).tobytes(),
            np.array([file.crcs[0] for file in parsed], "<u4").tobytes(),
            lengths,
            *(file.payload for file in parsed),
        ]
    )


class Block:
    """Random access to the files of a block.

    Args:
        data: the block; a view of a memory map is not copied.
        name: where it lies, for errors.

    Attributes:
        sizes: ``(n, 2)`` heights and widths in pixels.

    Raises:
        ValueError: if ``data`` is not a whole block.
    """

    def __init__(self, data: memoryview, name: str) -> None:
        self._data, self.name = data, name
        try:
            magic, codec, self._stream, count, least, bits, sized = _START.unpack_from(data)
            if magic != MAGIC or not _CODEC.fullmatch(codec) or not count or bits > 32 or sized > 1:
                raise ValueError(f"it starts with {bytes(data[: _START.size])!r}")
            # frombuffer refuses more than there is, so no count can make it allocate
            sizes = self._array("<u4", _START.size, 2 * (count if sized else 1)).reshape(-1, 2)
            self.sizes = np.broadcast_to(sizes, (count, 2))
            self._crcs = self._array("<u4", _START.size + sizes.nbytes, count)
            start = _START.size + sizes.nbytes + self._crcs.nbytes
            packed = self._array("u1", start, -(-count * bits // 8))
            lengths = _unpack(packed, count, least, bits)
            self._bounds = np.cumsum([start + len(packed), *lengths], dtype=np.int64)
            if self._bounds[-1] != len(data):
                raise ValueError("its lengths do not add up")
            if _pack(lengths) != (least, bits, packed.tobytes()):
                raise ValueError("its lengths are not packed as they should be")
            if sized != (sizes != sizes[0]).any() or not sizes.all():
                raise ValueError("its sizes are not what they should be")
            self._codec = codec.decode("ascii")
            self._shared = None if sized else self._header(0)
        except (struct.error, ValueError) as error:
            raise ValueError(f"damaged block {name}: {error}; export the set again") from error

    def __len__(self) -> int:
        return len(self._crcs)

    def fits(self, count: int, latent_size: tuple[int, int], stride: int) -> bool:
        """Tell whether it has ``count`` files of one latent size, as an index says of it."""
        sizes = -(-self.sizes.astype(np.int64) // stride)
        return len(self) == count and bool((sizes == latent_size).all())

    def __getitem__(self, index: int) -> bytes:
        """Return one complete ``.cdi`` file."""
        parsed = self.parsed(index)
        return rebuild(parsed.header, parsed.crcs, parsed.payloads)

    def parsed(self, index: int, place: int | None = None) -> Parsed:
        """Return what `parse` makes of one file; ``place`` is that in its batch, for errors."""
        header, start = self._shared or self._header(index)
        begin, end = self._bounds[index : index + 2].tolist()
        payload = bytes(self._data[begin:end])
        return Parsed(header, start, (int(self._crcs[index]),), (payload,), place)

    def _header(self, index: int) -> tuple[Header, bytes]:
        return _header(self._codec, self._stream, *self.sizes[index].tolist())

    def _array(self, dtype: str, start: int, count: int) -> NDArray[Any]:
        return np.frombuffer(self._data, dtype, count, start)


@lru_cache(maxsize=1024)
def _header(codec: str, stream: int, height: int, width: int) -> tuple[Header, bytes]:
    """Return a header and its bytes before the checksum, which all files of a size share."""
    header = Header(codec, stream, height, width)
    return header, pack_header(header, [b""])


def _pack(lengths: NDArray[np.int64]) -> tuple[int, int, bytes]:
    """Return the fields least, bits and lengths."""
    least = int(lengths.min())
    bits = int(lengths.max() - least).bit_length()
    table = (lengths - least)[:, None] >> np.arange(bits) & 1
    return least, bits, np.packbits(table.astype(np.uint8), bitorder="little").tobytes()


def _unpack(packed: NDArray[np.uint8], count: int, least: int, bits: int) -> NDArray[np.int64]:
    """Return the lengths ``(count,)``; the inverse of `_pack`."""
    table = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    lengths = np.full(count, least, np.int64)
    for bit in range(bits):
        lengths += table[:, bit].astype(np.int64) << bit
    return lengths
