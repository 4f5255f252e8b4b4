import functools
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from cdinfer.data.images import read_image
from cdinfer.data.metadata import MOST, make_upright, read_fields, save_picture
from tests.conftest import draw

BOTH = ("exif", "icc")
WHEN, CITY = "2020:02:03 04:05:06", (52.0, 22.0, 12.0)


def exif(orientation: int = 6) -> bytes:
    """An Exif block with a maker, a time, a place and an orientation."""
    block = Image.Exif()
    block[ExifTags.Base.Orientation], block[ExifTags.Base.Make] = orientation, "Maker"
    block[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: WHEN}
    block[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: CITY}
    return block.tobytes()


@functools.cache  # a profile says when it was made
def profile(space: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def paint(path: Path, **options: Any) -> Path:
    Image.fromarray(draw(17, 33, 0)).save(path, **options)
    return path


def facts(file: bytes) -> tuple[object, ...]:
    """Maker, time, latitude, orientation and profile of a picture file."""
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        tags = image.getexif()
        return (
            tags.get(ExifTags.Base.Make),
            tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal),
            tags.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSLatitude),
            tags.get(ExifTags.Base.Orientation, 1),
            image.info.get("icc_profile"),
        )


@pytest.mark.parametrize("source", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_what_came_with_a_picture_goes_on_with_it(tmp_path: Path, source: str, kind: str) -> None:
    path = paint(tmp_path / f"x.{source}", exif=exif(), icc_profile=profile())
    fields, notes = read_fields(path, BOTH)
    assert notes == ()
    assert [tag for tag, _ in fields] == ["EXIF", "ICCP"]
    assert fields[0][1][:4] in (b"MM\0*", b"II*\0")
    picture = read_image(path)
    file, notes = save_picture(picture, kind, fields)
    assert notes == ()
    assert facts(file) == ("Maker", WHEN, CITY, 1, profile())
    np.testing.assert_array_equal(read_image(file), picture)


def test_each_kind_is_kept_alone(tmp_path: Path) -> None:
    path = paint(tmp_path / "x.jpg", exif=exif(1), icc_profile=profile())
    assert read_fields(path, ()) == ((), ())
    assert read_fields(path, ("icc",)) == ((("ICCP", profile()),), ())
    (field,), _ = read_fields(path, ("exif",))
    assert field == ("EXIF", exif(1).removeprefix(b"Exif\0\0"))


def test_a_picture_with_nothing_gives_nothing(tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg", "x.bmp", "x.tif"):
        assert read_fields(paint(tmp_path / name), BOTH) == ((), ())


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_the_orientation_is_touched(order: str) -> None:
    header = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 8, 0)
    other = struct.pack(f"{order}HHII", 0x010F, 2, 3, 0x414200)
    block = header + struct.pack(f"{order}IH", 8, 2) + other + entry + b"maker notes"
    upright = make_upright(block)
    assert upright == block.replace(entry, struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 1, 0))


@pytest.mark.parametrize(
    "block",
    [b"", b"MM", b"GIF89a" * 9, b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff\0\0", exif()[6:40]],
)
def test_damaged_exif_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match="it is damaged: it "):
        make_upright(block)


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    path = paint(tmp_path / "cut.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09short")
    assert read_fields(path, BOTH)[1] == (
        "its EXIF is not kept: it is damaged: it ends inside its first directory",
    )
    path = paint(tmp_path / "lab.png", icc_profile=profile("LAB"))
    fields, (note,) = read_fields(path, BOTH)
    assert fields == ()
    assert note.startswith("its ICC is not kept: it is for 'Lab' colours")
    path = paint(tmp_path / "long.jpg", icc_profile=profile() + bytes(MOST))
    assert read_fields(path, BOTH)[1][0].endswith(" bytes, more than 4,194,304")


@pytest.mark.parametrize("place", range(0, 192, 3))
def test_no_change_of_a_byte_crashes(tmp_path: Path, place: int) -> None:
    block = bytearray(exif())
    block[place % len(block)] ^= 0xFF
    path = paint(tmp_path / "x.jpg", exif=bytes(block))
    fields, _ = read_fields(path, BOTH)
    for kind in ("PNG", "TIFF"):
        file, _ = save_picture(read_image(path), kind, fields)
        assert read_image(file).shape[2] == 3


def test_a_picture_survives_fields_that_cannot_be_written(tmp_path: Path) -> None:
    picture = draw(8, 8, 0)
    file, (note,) = save_picture(picture, "TIFF", (("EXIF", b"no exif at all"),))
    assert note.startswith("its EXIF and ICC are left out, they are damaged: ")
    np.testing.assert_array_equal(read_image(file), picture)


@pytest.mark.parametrize("kind", ["BMP", "PPM"])
def test_formats_that_carry_nothing_get_nothing(kind: str) -> None:
    file, notes = save_picture(draw(8, 8, 0), kind, (("EXIF", exif()), ("XYZ_", b"?")))
    assert notes == ()
    assert b"Maker" not in file
