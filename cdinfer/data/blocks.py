"""Many bitstreams in one piece of bytes: what a member of a shard holds.

One tar member a bitstream would triple a set of 600-byte files, so shards hold blocks:

    field     bytes    meaning
    magic       4      b"CDB0"
    codec       4      as in a .cdi file
    stream      4      stream id
    count       4      number of files n, at least 1
    flags       4      bit 0: the files have several sizes; bit 1: lengths have 4 bytes
    sizes     8 or 8n  height, width in pixels, 4 bytes each
    crcs        4n     each file's checksum
    lengths  2n or 4n  bytes of each payload
    payloads    -      one after the other

Integers are little endian. Each block is written in one way only, and each file can be rebuilt
byte for byte: a block leaves out only what its files share.
"""

import re
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.container import Header, parse, rebuild

MAGIC = b"CDB0"
_START = struct.Struct("<4s4sIII")
_CODEC = re.compile(rb"[A-Z0-9_]{4}")
_MANY_SIZES, _LONG = 1, 2

#: Bytes a file takes at least: checksum and length.
LEAST = 6


def join(files: Sequence[bytes]) -> bytes:
    """Return the block of complete ``.cdi`` files of one codec and stream, at least one."""
    parsed = [parse(file) for file in files]
    headers = [file.header for file in parsed]
    assert len({(h.codec, h.stream, h.provisional) for h in headers}) == 1
    assert not headers[0].provisional, "only frozen codecs write sets"
    sizes = np.array([(h.height, h.width) for h in headers], "<u4")
    lengths = np.array([len(file.payload) for file in parsed], "<u4")
    flags = _flags(sizes, lengths)
    start = (MAGIC, headers[0].codec.encode("ascii"), headers[0].stream, len(files), flags)
    return b"".join(
        [
            _START.pack(*start),
            (sizes if flags & _MANY_SIZES else sizes[:1]).tobytes(),
            np.array([file.crc for file in parsed], "<u4").tobytes(),
            lengths.astype("<u4" if flags & _LONG else "<u2").tobytes(),
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
            magic, codec, self._stream, count, flags = _START.unpack_from(data)
            if magic != MAGIC or not _CODEC.fullmatch(codec) or not count or flags > 3:
                raise ValueError(f"it starts with {magic!r}, {codec!r}, {count}, {flags}")
            # frombuffer refuses more than there is, so no count can make it allocate
            sizes = self._array("<u4", _START.size, 2 * (count if flags & _MANY_SIZES else 1))
            end = _START.size + sizes.nbytes
            self.sizes = np.broadcast_to(sizes.reshape(-1, 2), (count, 2))
            self._crcs = self._array("<u4", end, count)
            lengths = self._array("<u4" if flags & _LONG else "<u2", end + 4 * count, count)
            start = end + self._crcs.nbytes + lengths.nbytes
            self._ends = start + np.cumsum(lengths, dtype=np.int64)
            self._starts = self._ends - lengths
            if self._ends[-1] != len(data):
                raise ValueError("its lengths do not add up")
            if flags != _flags(self.sizes, lengths):
                raise ValueError(f"flags {flags} do not fit its sizes and lengths")
            if not sizes.all():
                raise ValueError("a side of a picture is 0")
            self._codec = codec.decode("ascii")
        except (struct.error, ValueError) as error:
            raise ValueError(f"damaged block {name}: {error}; export the set again") from error

    def __len__(self) -> int:
        return len(self._crcs)

    def __getitem__(self, index: int) -> bytes:
        """Return one complete ``.cdi`` file."""
        height, width = self.sizes[index].tolist()
        header = Header(self._codec, self._stream, height, width)
        payload = self._data[self._starts[index] : self._ends[index]]
        return rebuild(header, int(self._crcs[index]), bytes(payload))

    def _array(self, dtype: str, start: int, count: int) -> NDArray[np.unsignedinteger]:
        return np.frombuffer(self._data, dtype, count, start)


def _flags(sizes: NDArray[np.unsignedinteger], lengths: NDArray[np.unsignedinteger]) -> int:
    """Return the flags of files with ``sizes (n, 2)`` and ``lengths (n,)``."""
    many, long = (sizes != sizes[0]).any(), (lengths >= 1 << 16).any()
    return _MANY_SIZES * int(many) + _LONG * int(long)
