r"""Masks as sets hold them: lossless, small, each one readable without the others.

    mask (H, W) uint8 --to_png--> 8-bit grey PNG --join_masks--> member KEY.masks of a block

A member is the lengths of its n PNGs, 4n bytes, little endian, and then those PNGs, in the order of
the block. Each mask is written in one way only: IHDR, one IDAT, IEND; no row is filtered, which
makes classes smaller than any filter does, and quick to read. Nothing else is read, and nothing is
inflated before the header says what the block says: height and width of the picture.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from cdinfer.data.masks import Mask, all_colours

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Bytes of a grey PNG before and after what IDAT holds.
_BEFORE, _AFTER = 41, 16

#: Bytes of a PNG at least: of one pixel.
LEAST = _BEFORE + 10 + _AFTER

#: A byte of zlib's holds so many bytes at most.
_RATIO = 1032


def to_png(mask: Mask) -> bytes:
    """Return a mask as a PNG.

    Example:
        >>> from_png(to_png(np.array([[0, 1, 255]], np.uint8)), (1, 3), 2, 255).tolist()
        [[0, 1, 255]]
    """
    rows = np.zeros((mask.shape[0], mask.shape[1] + 1), np.uint8)  # 0 first: no filter
    rows[:, 1:] = mask
    return _frame((mask.shape[0], mask.shape[1]), zlib.compress(rows.tobytes(), 9))


def colour_png(png: bytes, palette: Sequence[Sequence[int]]) -> bytes:
    """Return the same pixels as a palette PNG; what is no class has VOC's colour for that."""
    width, height = struct.unpack_from(">II", png, 16)
    return _frame((height, width), png[_BEFORE:-_AFTER], all_colours(palette))


def from_png(
    png: bytes | memoryview, size: tuple[int, int], num_classes: int, ignore_index: int
) -> Mask:
    """Return the mask ``(H, W)`` that `to_png` wrote; read-only.

    Args:
        png: as it stands in a set.
        size: height and width of its picture.
        num_classes: pixels have a class below this, or ``ignore_index``.
        ignore_index: of pixels without a class.

    Raises:
        ValueError: if it is damaged, or another picture's; no more is allocated than the mask.
    """
    area = size[0] * (size[1] + 1)
    try:
        if area > _RATIO * len(png) or len(png) > 2 * area + LEAST:
            raise ValueError(f"{len(png)} bytes cannot be {size[1]} x {size[0]} pixels")
        pixels = bytes(png[_BEFORE:-_AFTER])
        if png != _frame(size, pixels):
            raise ValueError(f"no grey PNG of {size[1]} x {size[0]} pixels")
        decoder = zlib.decompressobj()
        rows = np.frombuffer(decoder.decompress(pixels, area + 1), np.uint8)
        if not decoder.eof or decoder.unused_data:
            raise ValueError("it does not end where its pixels do")
        rows = rows.reshape(size[0], size[1] + 1)
        mask = rows[:, 1:]
        known = (mask < num_classes) | (mask == ignore_index)
        if rows[:, 0].any() or not known.all():
            raise ValueError("its pixels are no classes")
    except (ValueError, zlib.error) as error:
        raise ValueError(f"its mask is damaged ({error}); export the set again") from error
    return mask


def join_masks(pngs: Sequence[bytes | memoryview]) -> bytes:
    """Return the member of the masks of a block."""
    return np.array([len(png) for png in pngs], "<u4").tobytes() + b"".join(pngs)


class MaskBlock:
    """Random access to the masks of a block.

    Args:
        data: the member; a view of a memory map is not copied.
        count: samples in the block.

    Raises:
        ValueError: if its lengths do not add up.
    """

    def __init__(self, data: memoryview, count: int) -> None:
        lengths = np.frombuffer(data[: 4 * count], "<u4")
        self._data, self._bounds = data, np.cumsum([4 * count, *lengths.tolist()])
        if len(lengths) != count or self._bounds[-1] != len(data):
            raise ValueError("the lengths of its masks do not add up")

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> memoryview:
        """Return one mask's PNG, not copied."""
        begin, end = self._bounds[index : index + 2].tolist()
        return self._data[begin:end]


def _frame(size: tuple[int, int], pixels: bytes, palette: bytes = b"") -> bytes:
    """Return the PNG of deflated rows."""
    header = struct.pack(">IIBBBBB", size[1], size[0], 8, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b"")]
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind != b"PLTE"
    )
