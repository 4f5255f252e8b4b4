import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.mask_blocks import (
    LEAST,
    MaskBlock,
    _frame,
    colour_png,
    from_png,
    join_masks,
    to_png,
)
from cdinfer.data.masks import Mask

SIZES = [(1, 1), (16, 16), (45, 61), (61, 45), (1, 300)]


def random_mask(height: int, width: int, seed: int = 0) -> Mask:
    return np.random.default_rng(seed).choice(np.uint8([0, 1, 2, 255]), (height, width))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("size", SIZES)
def test_masks_come_back_and_other_software_reads_them_too(size: tuple[int, int]) -> None:
    mask = random_mask(*size)
    png = to_png(mask)
    assert png == to_png(mask.copy())
    assert len(png) >= LEAST
    assert (from_png(png, size, 3, 255) == mask).all()
    assert (from_png(memoryview(png), size, 3, 255) == mask).all()
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "L"
        assert (np.array(image) == mask).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_palette_makes_them_visible(size: tuple[int, int]) -> None:
    mask, palette = random_mask(*size), [[9, 8, 7], [255, 0, 1], [0, 2, 0]]
    with Image.open(io.BytesIO(colour_png(to_png(mask), palette))) as image:
        assert image.mode == "P"
        assert (np.array(image) == mask).all()
        colours = np.array([*palette, [224, 224, 192]], np.uint8)
        assert (np.array(image.convert("RGB")) == colours[np.minimum(mask, 3)]).all()


def test_every_changed_bit_and_every_truncation_is_refused() -> None:
    mask = random_mask(5, 7)
    png = to_png(mask)
    spoilt = [png[:length] for length in range(len(png))]
    for position in range(8 * len(png)):
        changed = bytearray(png)
        changed[position // 8] ^= 1 << position % 8
        spoilt.append(bytes(changed))
    for one in [*spoilt, png + b"\0", b"", png * 2]:
        with pytest.raises(ValueError, match=r"^its mask is damaged \([^\n]+\); export the set ag"):
            from_png(one, (5, 7), 3, 255)


@pytest.mark.parametrize("size", [(4, 7), (7, 5), (5, 8), (2**31, 2**31), (2**32 - 1, 2**32 - 1)])
def test_a_mask_of_another_size_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="its mask is damaged"):
        from_png(to_png(random_mask(5, 7)), size, 3, 255)
    with pytest.raises(ValueError, match="its mask is damaged"):
        from_png(_frame(size, zlib.compress(bytes(40))), size, 3, 255)


def test_values_that_are_no_class_are_refused() -> None:
    for value in (3, 254, 255):
        png = to_png(np.full((2, 3), value, np.uint8))
        with pytest.raises(ValueError, match="its pixels are no classes"):
            from_png(png, (2, 3), 3, 0)
    assert from_png(to_png(np.full((2, 3), 200, np.uint8)), (2, 3), 3000, 0).max() == 200


def test_only_what_is_written_is_read() -> None:
    mask = random_mask(8, 9)
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    png, rows = to_png(mask), np.pad(mask, ((0, 0), (1, 0)))
    filtered = rows.copy()
    filtered[1:, 0] = 2
    filtered[1:, 1:] -= mask[:-1]
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**6)))
    deflated = zlib.compress(rows.tobytes())
    others = [
        file.getvalue(),
        png[:33] + text + png[33:],
        png[:-12] + text + png[-12:],
        _frame((8, 9), zlib.compress(filtered.tobytes(), 9)),
        _frame((8, 9), deflated + b"more"),
        _frame((8, 9), zlib.compress(rows.tobytes() + b"\0")),
        _frame((8, 9), zlib.compress(rows.tobytes()[:-1])),
        _frame((8, 9), deflated[:-1]),
        colour_png(png, [[0, 0, 0]] * 3),
    ]
    for other in others:
        with pytest.raises(ValueError, match="its mask is damaged"):
            from_png(other, (8, 9), 3, 255)


def test_a_bomb_allocates_no_more_than_its_mask() -> None:
    bomb = zlib.compress(bytes(2**28), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((30, 40), (500, 500)):
        with pytest.raises(ValueError, match="its mask is damaged"):
            from_png(_frame(size, bomb), size, 3, 255)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**13  # 8 MiB in KiB


def test_each_mask_of_a_block_is_read_alone() -> None:
    masks = [random_mask(*size, seed=seed) for seed, size in enumerate(SIZES)]
    data = bytearray(join_masks([to_png(mask) for mask in masks]))
    assert data[:20] == struct.pack("<5I", *(len(to_png(mask)) for mask in masks))
    block = MaskBlock(memoryview(bytes(data)), 5)
    assert len(block) == 5
    for place in (4, 0, 2):
        assert (from_png(block[place], SIZES[place], 3, 255) == masks[place]).all()
    data[len(data) - 30] ^= 1  # of the last
    block = MaskBlock(memoryview(bytes(data)), 5)
    assert (from_png(block[3], SIZES[3], 3, 255) == masks[3]).all()
    with pytest.raises(ValueError, match="damaged"):
        from_png(block[4], SIZES[4], 3, 255)


@pytest.mark.parametrize("count", [1, 3, 1000, 2**40])
def test_lengths_that_do_not_add_up_are_refused(count: int) -> None:
    data = join_masks([to_png(random_mask(4, 4))] * 2)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        MaskBlock(memoryview(data), count)
    for spoilt in (data[:-1], data + b"\0", data[:7], b"\xff" * 8 + data[8:]):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            MaskBlock(memoryview(spoilt), 2)
