import io
import json

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor

from cdinfer.codecs.classical import (
    STANDARDS,
    ClassicalCodec,
    compress_within,
    restore_jpeg,
    transcode_jpeg,
)
from cdinfer.data.images import from_tensor, to_tensor
from tests.conftest import draw

PICTURE = draw(48, 64, 0)
AVIF = imagecodecs.avif_encode(PICTURE, 40, codec="aom", pixelformat="420", speed=6, numthreads=1)


def batch(*pictures: npt.NDArray[np.uint8]) -> Tensor:
    return torch.stack([to_tensor(picture) for picture in pictures])


def save(kind: str, picture: npt.NDArray[np.uint8] = PICTURE, **options: object) -> bytes:
    """Return the file that Pillow writes when asked directly."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def files(name: str, level: float) -> list[bytes]:
    return ClassicalCodec(name, level).compress(batch(PICTURE))


# Bytes


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("jpeg", 30, save("JPEG", quality=30, optimize=True)),  # 4:2:0 is Pillow's own default
        ("jpeg-444", 30, save("JPEG", quality=30, optimize=True, subsampling=0)),
        ("webp", 30, imagecodecs.webp_encode(PICTURE, 30, lossless=False, method=6)),
        ("avif", 40, AVIF),
        ("jxl", 2.5, imagecodecs.jpegxl_encode(PICTURE, distance=2.5, effort=7, numthreads=1)),
    ],
)
def test_files_are_those_of_the_library_asked_directly(
    name: str, level: float, expected: bytes
) -> None:
    assert files(name, level) == [expected]


def test_jpeg_files_are_as_small_as_those_of_another_library() -> None:
    other = imagecodecs.jpeg8_encode(PICTURE, 30, optimize=True, subsampling="420")
    assert len(files("jpeg", 30)[0]) == len(other)
    assert len(other) < len(save("JPEG", quality=30))


@pytest.mark.parametrize(("name", "sampling"), [("jpeg", 2), ("jpeg-444", 0)])
def test_jpeg_files_have_the_subsampling_of_their_name(name: str, sampling: int) -> None:
    image = Image.open(io.BytesIO(files(name, 50)[0]))
    assert JpegImagePlugin.get_sampling(image) == sampling


def test_webp_is_lossy() -> None:
    (file,) = files("webp", 50)
    assert file[12:16] == b"VP8 "
    assert len(file) < len(save("WEBP", lossless=True)) / 2


@pytest.mark.parametrize("bpp", [0.6, 1.0, 1.6])
def test_jpeg2000_fills_the_rate_that_it_is_given(bpp: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    (file,) = ClassicalCodec("jpeg2000", bpp).compress(batch(picture))
    assert 0.75 * bpp < 8 * len(file) / (96 * 128) < 1.02 * bpp
    assert file.startswith(b"\xff\x4f\xff\x51")  # SOC, SIZ: a codestream without boxes


def test_jpeg2000_transforms_colours_and_uses_the_lossy_wavelet() -> None:
    (file,) = files("jpeg2000", 1.0)
    cod = file[file.index(b"\xff\x52") + 2 :]  # ITU-T T.800, A.6.1
    assert cod[6] == 1  # multiple component transformation
    assert cod[11] == 0  # 9-7 irreversible


@pytest.mark.parametrize("name", STANDARDS)
def test_levels_and_grids_rise_in_bytes(name: str) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (120, 160, 3))
    picture = (draw(120, 160, 3) + noise).clip(0, 255).astype(np.uint8)
    grid = [len(ClassicalCodec(name, level).compress(batch(picture))[0])
            for level in STANDARDS[name].grid]  # fmt: skip
    assert len(grid) >= 8
    assert grid == sorted(grid)
    ends = [STANDARDS[name].levels[i] for i in (0, -1)]
    least, most = (len(ClassicalCodec(name, level).compress(batch(picture))[0]) for level in ends)
    assert least <= grid[0] < grid[-1] < most


# Pictures


@pytest.mark.parametrize(("name", "level"), [("jpeg", 80), ("jpeg-444", 80), ("webp", 80),
                                             ("avif", 70), ("jpeg2000", 2.0)])  # fmt: skip
def test_pictures_come_back_as_pillow_reads_them(name: str, level: float) -> None:
    codec = ClassicalCodec(name, level)
    (file,) = codec.compress(batch(PICTURE))
    ours = from_tensor(codec.decompress([file])[0]).astype(int)
    theirs = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
    assert abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 17)])
@pytest.mark.parametrize("name", STANDARDS)
def test_pictures_of_any_size_come_back(name: str, size: tuple[int, int]) -> None:
    x = batch(draw(*size, 0), draw(*size, 1))
    codec = ClassicalCodec(name, STANDARDS[name].grid[-1])
    data = codec.compress(x)
    x_hat = codec.decompress(data)
    assert len(data) == 2
    assert (x_hat.shape, x_hat.dtype) == (x.shape, torch.float32)
    assert abs(x_hat - x).mean() < 0.1
    assert 0 <= x_hat.min() <= x_hat.max() <= 1


def test_values_outside_the_range_are_clipped() -> None:
    codec = ClassicalCodec("jpeg", 50)
    x = torch.tensor([-3.0, 4.0]).repeat_interleave(3 * 16).reshape(2, 3, 4, 4)
    assert codec.compress(x) == codec.compress(x.clamp(0, 1))


# Settings and mistakes


@pytest.mark.parametrize("name", STANDARDS)
def test_all_settings_are_recorded_as_json(name: str) -> None:
    low, high = (ClassicalCodec(name, level) for level in STANDARDS[name].grid[:2])
    assert json.loads(json.dumps(low.options)) == low.options
    assert low.options["level"] == low.level != high.level
    assert low.setting != high.setting
    assert imagecodecs.__version__ in low.options["libraries"]
    assert set(STANDARDS[name].options) < set(low.options)


def test_effort_and_threads_are_among_the_settings() -> None:
    jxl, avif, webp = (STANDARDS[name].options for name in ("jxl", "avif", "webp"))
    assert (jxl["effort"], jxl["numthreads"]) == (7, 1)
    assert (avif["speed"], avif["numthreads"]) == (6, 1)
    assert (webp["method"], webp["lossless"]) == (6, False)


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("jpg", 30, "no standard codec 'jpg'; did you mean 'jpeg'"),
        ("jpeg", 0, "a whole number from 1 to 95 as level of jpeg: 0"),
        ("jpeg", 30.5, "a whole number from 1 to 95"),
        ("jxl", 25, "a number from 0.1 to 19.0 as level of jxl: 25"),
        ("jxl", 0, "a number from 0.1"),
    ],
)
def test_unknown_names_and_levels_are_refused(name: str, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassicalCodec(name, level)


@pytest.mark.parametrize("file", [b"", b"no picture at all", save("PNG")[:300]])
@pytest.mark.parametrize("name", STANDARDS)
def test_a_file_of_another_kind_is_a_one_line_error(name: str, file: bytes) -> None:
    codec = ClassicalCodec(name, STANDARDS[name].grid[0])
    with pytest.raises(ValueError, match=f"expected a whole {name} file .*; encode it again"):
        codec.decompress([file])


def test_a_grey_file_is_not_one_of_ours() -> None:
    with pytest.raises(ValueError, match="expected a whole jpeg file of 8-bit RGB"):
        ClassicalCodec("jpeg", 30).decompress([save("JPEG", PICTURE[..., 0])])


def test_a_side_that_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="webp refuses 16384 x 1 pixels"):
        ClassicalCodec("webp", 30).compress(torch.zeros(1, 3, 1, 16384))


# At most so many bytes


@pytest.mark.parametrize("name", STANDARDS)
def test_bytes_are_filled_by_the_best_level_that_fits(name: str) -> None:
    x = batch(draw(96, 128, 2))
    levels = STANDARDS[name].levels
    middle = len(levels) // 2
    (target,) = map(len, ClassicalCodec(name, levels[middle]).compress(x))
    found = compress_within(name, x, target)
    assert found is not None
    codec, file = found
    assert len(file) <= target
    assert codec.compress(x) == [file]
    assert levels.index(codec.level) >= middle - 1
    (beyond,) = ClassicalCodec(name, levels[levels.index(codec.level) + 1]).compress(x)
    assert len(beyond) > target


@pytest.mark.parametrize("name", STANDARDS)
def test_nothing_fits_into_ten_bytes(name: str) -> None:
    assert compress_within(name, batch(PICTURE), 10) is None


# JPEG sources


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_file_comes_back_bit_for_bit_from_fewer_bytes(mode: str, progressive: bool) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    image = Image.fromarray(draw(192, 256, 1)).convert(mode)
    image.save(file, "JPEG", quality=90, progressive=progressive, exif=exif)
    source = file.getvalue()
    small = transcode_jpeg(source)
    assert len(small) < 0.95 * len(source)
    assert small == imagecodecs.jpegxl_encode_jpeg(source)
    assert restore_jpeg(small) == source


def test_what_is_no_jpeg_file_is_not_transcoded() -> None:
    cmyk = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(cmyk, "JPEG")
    for data in (b"", save("PNG"), save("JPEG")[:100], cmyk.getvalue()):
        with pytest.raises(ValueError, match="cannot hold this as a JPEG file"):
            transcode_jpeg(data)


def test_a_file_made_of_pixels_has_no_jpeg_in_it() -> None:
    for data in (b"", save("JPEG"), *files("jxl", 2.0)):
        with pytest.raises(ValueError, match="no JPEG file in this JPEG XL file"):
            restore_jpeg(data)
