import io
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cdinfer.data.images import (
    ImageError,
    as_tensor,
    find_images,
    from_tensor,
    read_image,
    resize_short_side,
    to_tensor,
)

#: A 4 x 6 picture in which every pixel differs from every other.
RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file with a valid header of any size and eight bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_an_rgb_picture_is_read_as_it_is(tmp_path: Path) -> None:
    path = save(Image.fromarray(RGB), tmp_path / "a.png")
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, RGB)


def test_path_text_bytes_and_open_file_read_alike(tmp_path: Path) -> None:
    path = save(Image.fromarray(RGB), tmp_path / "a.png")
    with path.open("rb") as file:
        for source in (str(path), path.read_bytes(), file, io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(read_image(source), RGB)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    path = save(Image.fromarray(RGB[..., 0]), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path), np.stack([RGB[..., 0]] * 3, -1))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = RGB[..., 0] % 2 == 0
    path = save(Image.fromarray(bits), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path)[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 128, 129, 257], [32768, 51400, 65406, 65535]], np.uint16)
    path = save(Image.fromarray(levels), tmp_path / f"a{suffix}")
    expected = [[0, 0, 1, 1], [128, 200, 254, 255]]  # 65535 / 255 = 257, by hand
    np.testing.assert_array_equal(read_image(path)[..., 2], expected)


def test_a_portable_greymap_of_ten_bits_reaches_white() -> None:
    data = b"P5 2 1 1023\n" + np.array([0, 1023], ">u2").tobytes()
    assert read_image(data)[..., 0].tolist() == [[0, 255]]


def test_sixteen_bit_colour_keeps_its_upper_bits() -> None:
    data = b"P6 1 1 65535\n" + np.array([0x12FF, 0x8000, 0xFFFF], ">u2").tobytes()
    np.testing.assert_allclose(read_image(data)[0, 0], [0x12, 0x80, 0xFF], atol=1)


def test_thirty_two_bit_integers_within_sixteen_are_read(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[0, 65535]], np.int32)), tmp_path / "a.tif")
    assert read_image(path)[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    "levels", [np.array([[0, 65536]], np.int32), np.array([[0.0, 1.0]], np.float32)]
)
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, levels: np.ndarray) -> None:
    path = save(Image.fromarray(levels), tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*what white is.*convert the picture to PNG"):
        read_image(path)


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    # 51 / 255 = one fifth black, four fifths white
    assert read_image(path).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_is_composited_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 255], [10, 0], [0, 51]]], np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert read_image(path)[..., 0].tolist() == [[10, 255, 204]]


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    path = save(palette_picture(), tmp_path / "a.png")
    assert read_image(path).tolist() == [[[200, 0, 0], [0, 100, 50]]]


@pytest.mark.parametrize(
    ("suffix", "transparency"), [(".png", 0), (".png", b"\x00\xff"), (".gif", 0)]
)
def test_transparent_palette_entries_become_white(
    tmp_path: Path, suffix: str, transparency: int | bytes
) -> None:
    path = save(palette_picture(), tmp_path / f"a{suffix}", transparency=transparency)
    assert read_image(path).tolist() == [[[255, 255, 255], [0, 100, 50]]]


def palette_picture() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 50])
    image.putpixel((1, 0), 1)
    return image


def test_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    path = save(picture, tmp_path / "a.png", transparency=(1, 2, 3))
    assert read_image(path).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # all cyan
    path = save(picture, tmp_path / "a.jpg", quality=100)
    image = read_image(path)
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image[8, 8], [0, 255, 255], atol=3)


#: EXIF orientation -> the stored picture as it should be seen.
UPRIGHT = {
    1: RGB,
    2: np.fliplr(RGB),
    3: np.rot90(RGB, 2),
    4: np.flipud(RGB),
    5: RGB.swapaxes(0, 1),
    6: np.rot90(RGB, -1),  # clockwise
    7: np.rot90(RGB, 2).swapaxes(0, 1),
    8: np.rot90(RGB, 1),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_respected(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    save(Image.fromarray(RGB), path, exif=exif, lossless=True)
    image = read_image(path)
    np.testing.assert_array_equal(image, UPRIGHT[orientation])
    with Image.open(path) as again:  # second opinion
        again.load()
        np.testing.assert_array_equal(image, np.asarray(ImageOps.exif_transpose(again)))


def test_a_sixteen_bit_picture_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = RGB[..., 0]
    path = save(Image.fromarray(grey * np.uint16(257)), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0], np.rot90(grey, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".webp"])
def test_a_truncated_picture_is_one_line_with_a_remedy(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"^[^\n]*a\.\w+: [^\n]*leave it out$"):
        read_image(path)


@pytest.mark.parametrize("data", [b"", b"no picture", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_one_line_with_a_remedy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=r"^[^\n]*a\.jpg: [^\n]*no picture in it[^\n]*to PNG"):
        read_image(tmp_path / "a.jpg")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b\.png: .*No such file.*check the path"):
        read_image(tmp_path / "b.png")


def test_a_huge_claim_is_refused_before_anything_is_decoded() -> None:
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"60000 x 60000 .* at most 536870912$") as caught:
        read_image(png_claiming(60_000, 60_000))
    assert caught.value.pixels == 3_600_000_000
    assert time.perf_counter() - start < 1  # decoding would take 10.8 GB


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = save(Image.fromarray(RGB), tmp_path / "a.png")
    assert read_image(path, max_pixels=24).shape == (4, 6, 3)
    with pytest.raises(ValueError, match=r"a\.png: .* expected at most 23"):
        read_image(path, max_pixels=23)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_pillows_own_limits_are_lifted(side: int) -> None:
    # Pillow warns above 89 and refuses above 178 Mpixel; here only the missing pixels matter.
    with pytest.raises(ValueError, match="truncated"):
        read_image(png_claiming(side, side))


@pytest.mark.slow
def test_pictures_above_pillows_limit_are_read_silently(tmp_path: Path) -> None:
    path = save(Image.new("1", (20_000, 9_000), 1), tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    assert read_image(path).shape == (9_000, 20_000, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_damaged_exif_is_no_news(tmp_path: Path) -> None:
    damaged = b"Exif\0\0MM\0*\0\0\0\x08\0\x09short"
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=damaged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_image(tmp_path / "x.jpg").shape == (4, 6, 3)
        warnings.warn("others are heard", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["others are heard"]


def test_bytes_and_floats_hold_the_same_picture() -> None:
    assert torch.equal(as_tensor(RGB) / 255, to_tensor(RGB))
    assert as_tensor(RGB).data_ptr() == RGB.ctypes.data


def test_pillows_own_limit_returns_when_all_threads_are_done(tmp_path: Path) -> None:
    path = save(Image.fromarray(RGB.repeat(50, 0).repeat(50, 1)), tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    threads = [threading.Thread(target=read_image, args=(path,)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [(30, 45, 20, (20, 30)), (45, 30, 20, (30, 20)), (10, 13, 25, (25, 33)), (1, 3, 2, (2, 6))],
)
def test_the_short_side_is_met_and_the_aspect_kept(
    height: int, width: int, side: int, expected: tuple[int, int]
) -> None:
    assert resize_short_side(np.zeros((height, width, 3), np.uint8), side).shape[:2] == expected


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    assert resize_short_side(RGB, 4) is RGB


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # every second column: nearest or plain bilinear gives 0 or 255
    shrunk = resize_short_side(stripes, 16)
    assert np.abs(shrunk[:, 2:-2].astype(int) - 127).max() <= 8


@pytest.mark.parametrize(("shape", "side"), [((4, 4, 3), 0), ((1, 60_000, 3), 256)])
def test_impossible_resizing_is_refused(shape: tuple[int, int, int], side: int) -> None:
    with pytest.raises(ValueError, match="--resize"):
        resize_short_side(np.zeros(shape, np.uint8), side)


def test_tensors_and_pictures_are_the_same_thing() -> None:
    levels = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    x = to_tensor(levels)
    assert x.dtype == torch.float32
    assert x.shape == (3, 16, 16)
    assert x.is_contiguous()
    np.testing.assert_allclose(x.numpy(), levels.transpose(2, 0, 1) / np.float32(255))
    np.testing.assert_array_equal(from_tensor(x), levels)


def test_values_outside_the_range_are_clamped() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1)
    assert from_tensor(x).tolist() == [[[0, 128, 255]]]


def test_pictures_are_found_sorted_at_any_depth(tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/1.png", "a.Tiff", "c/d/e.webp"]
    others = ["notes.txt", ".hidden.png", ".cache/x.png", "b/.x/y.png", "b/README"]
    for name in names + others:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_images(tmp_path) == [tmp_path / name for name in sorted(names)]


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "class").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "set")
    assert find_images(tmp_path / "set") == [tmp_path / "set" / "class" / "a.png"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone: expected a folder.*check the path"):
        find_images(tmp_path / "gone")
