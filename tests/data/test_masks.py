import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.images import ImageError
from cdinfer.data.masks import Masks, colour_mask, read_mask, read_palette, resize_mask

THREE = Masks([[0, 0, 0], [255, 0, 0], [0, 255, 0]])


def save(path: Path, values: list[list[int]], palette: list[int] | None = None) -> Path:
    image = Image.fromarray(np.array(values, np.uint8))
    if palette is not None:
        image.putpalette(palette + [0] * (768 - len(palette)))
    image.save(path)
    return path


@pytest.mark.parametrize("palette", [None, [9, 9, 9, 200, 0, 0, 0, 200, 0]])
def test_a_mask_holds_the_numbers_of_its_file_whatever_their_colours(
    tmp_path: Path, palette: list[int] | None
) -> None:
    path = save(tmp_path / "m.png", [[0, 1, 2], [2, 1, 255]], palette)
    mask = read_mask(path, THREE, 3, (2, 3))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1, 2], [2, 1, 255]]


def test_numbers_of_the_files_become_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[7, 8, 9], [33, 200, 255]])
    masks = Masks([[0, 0, 0]] * 3, ignore_index=254, numbers={7: 0, 8: 1, 33: 2})
    assert read_mask(path, masks, 3, (2, 3)).tolist() == [[0, 1, 254], [2, 254, 254]]


def test_a_class_that_has_no_name_is_named_by_its_number(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[0, 3], [2, 255]])
    with pytest.raises(ImageError, match=r"m\.png: a mask holds class 3, expected 0 to 2 or 255"):
        read_mask(path, THREE, 3, (2, 2))
    with pytest.raises(ImageError, match=r"a mask holds class 255, expected 0 to 3 or 11 for none"):
        read_mask(path, Masks([[0, 0, 0]] * 4, ignore_index=11), 4, (2, 2))


def test_another_size_than_the_pictures_is_refused_before_decoding(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[0, 1, 2]])
    with pytest.raises(ImageError, match=r"m\.png: expected a mask of 5 x 2 .*, got 3 x 1$"):
        read_mask(path, THREE, 3, (2, 5))
    # a header that claims 4 gigapixels, and no pixels
    head = struct.pack(">IIBBBBB", 65536, 65536, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    file = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    path.write_bytes(file + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT")
    with pytest.raises(ImageError, match=r"got 65536 x 65536$"):
        read_mask(path, THREE, 3, (2, 5))


def test_colours_are_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.new("RGB", (3, 2)).save(path)
    with pytest.raises(ImageError, match=r"m\.png: .* class numbers .*, got mode RGB$"):
        read_mask(path, THREE, 3, (2, 3))
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(path)
    with pytest.raises(ImageError, match="got mode I;16"):
        read_mask(path, THREE, 3, (2, 3))


def test_a_mask_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read \(No such file"):
        read_mask(tmp_path / "gone.png", THREE, 3, (2, 3))
    file = io.BytesIO()
    Image.fromarray(np.tile(np.arange(3, dtype=np.uint8), (64, 32))).save(file, "png")
    path = tmp_path / "cut.png"
    path.write_bytes(file.getvalue()[:60])
    with pytest.raises(ImageError, match=r"cut\.png: cannot be read") as caught:
        read_mask(path, THREE, 3, (64, 96))
    assert "\n" not in str(caught.value)


def test_colours_are_read_from_the_header(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[0, 1]], [1, 2, 3, 40, 50, 60])
    assert read_palette(path)[:2] == [[1, 2, 3], [40, 50, 60]]
    assert read_palette(save(path, [[0, 1]])) == []


def test_a_coloured_mask_keeps_its_values_on_disk(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    colour_mask(mask, THREE.palette).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", THREE, 3, (1, 4)), mask)
    assert read_palette(tmp_path / "m.png")[:3] == THREE.palette


@pytest.mark.parametrize("size", [(48, 64), (31, 17), (96, 128), (1, 1), (13, 200)])
def test_resizing_takes_the_nearest_class(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 256, (31, 45), np.uint8)
    by_pillow = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
    resized = resize_mask(mask, size)
    assert resized.shape == size
    assert np.array_equal(resized, np.array(by_pillow))
    box = (size[0] // 3, size[1] // 4, size[0], size[1] - size[1] // 3)
    part = resize_mask(mask, size, box)
    assert np.array_equal(part, resized[box[0] : box[2], box[1] : box[3]])


def test_of_two_equally_near_the_next_one_is_taken() -> None:
    assert resize_mask(np.array([[0, 1, 2, 3]], np.uint8), (1, 2)).tolist() == [[1, 3]]
    assert resize_mask(np.arange(64, dtype=np.uint8)[None], (1, 49))[0, 24] == 32
