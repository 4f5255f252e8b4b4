"""``encode``, ``decode`` and ``export`` at their limits: quality, EXIF, odd or many pictures."""

import json
import math
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from cdinfer.__main__ import main
from cdinfer.bitstream import parse
from cdinfer.codecs import load_codec, save_codec
from cdinfer.codecs.cae import OPERATING_POINTS
from cdinfer.codecs.stored import read_codec
from cdinfer.codecs.zoo import find_codec
from cdinfer.data.images import read_image
from cdinfer.data.layout import INDEX
from cdinfer.data.shards import ShardDataset
from tests.conftest import draw

Capture = pytest.CaptureFixture[str]
Picture = npt.NDArray[np.uint8]

LITE = ("--codec", "cae-lite")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own empty folder; codecs are the shipped ones."""
    monkeypatch.chdir(tmp_path)


def paint(name: str, picture: Picture, **options: Any) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(name, **options)
    return Path(name)


def noise(height: int, width: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encode(capsys: Capture, *args: object) -> dict[str, Any]:
    """Encode one picture and return its row."""
    assert main(["encode", "--json", *map(str, args)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    row: dict[str, Any] = json.loads(out)
    return row


def quality(one: Picture, other: Picture) -> float:
    error = np.square(one.astype(float) - other).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


# A floor under the quality


def test_a_picture_below_the_floor_goes_up_a_rate(capsys: Capture) -> None:
    picture = draw(48, 64, 2)
    paint("x.png", picture)
    free = encode(capsys, "x.png", *LITE, "--bpp", 0.0983, "--min-psnr", 1)
    assert free["rate"] == 0.0983
    floor = free["psnr"] + 0.5
    row = encode(capsys, "x.png", *LITE, "--bpp", 0.0983, "--min-psnr", floor, "-o", "y.cdi")
    assert row["rate"] > 0.0983
    assert row["psnr"] >= floor
    assert row["bytes"] == Path("y.cdi").stat().st_size
    stream = parse(Path("y.cdi").read_bytes()).header.stream
    assert stream == load_codec(LITE[1], row["rate"]).stream
    assert main(["decode", "y.cdi", "--overwrite"]) == 0  # finds the codec of that rate itself
    assert quality(read_image("y.png"), picture) == pytest.approx(row["psnr"])


def test_a_picture_no_rate_can_show_becomes_jpeg_xl(capsys: Capture) -> None:
    picture = noise(48, 64)
    paint("x.png", picture)
    row = encode(capsys, "x.png", *LITE, "--min-psnr", 28)
    assert (row["file"], row["codec"], row["rate"]) == ("x.jxl", "jxl", None)
    assert row["bpp"] == 8 * row["bytes"] / (48 * 64)
    shown = imagecodecs.jpegxl_decode(Path("x.jxl").read_bytes())
    assert quality(shown, picture) == pytest.approx(row["psnr"])
    assert row["psnr"] >= 28
    assert row["bytes"] < 48 * 64 * 3
    assert not Path("x.cdi").exists()


def test_people_read_what_was_tried(capsys: Capture) -> None:
    paint("x.png", noise(48, 64))
    assert main(["encode", "x.png", *LITE, "--min-psnr", "28"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("x.png -> x.jxl (")
    tried = line[line.index("(") + 1 : line.index(")")].split(", ")
    assert [what.split(" dB ")[1] for what in tried[:2]] == ["at 0.33 bpp", "at 0.635 bpp"]
    assert " dB as JPEG XL at distance " in tried[2]


def test_a_codec_given_by_its_folder_has_one_rate(capsys: Capture) -> None:
    save_codec(read_codec(find_codec(LITE[1], 0.0983)), Path("mine"), {})
    paint("x.png", noise(16, 16))
    assert main(["encode", "x.png", "--codec", "mine", "--min-psnr", "28"]) == 0
    line = capsys.readouterr().out
    assert "dB at 0.0983 bpp, " in line
    assert "at 0.33 bpp" not in line


def test_an_exact_picture_has_no_psnr_in_json(capsys: Capture) -> None:
    paint("x.png", noise(17, 33))
    row = encode(capsys, "x.png", *LITE, "--min-psnr", 90)
    assert row["psnr"] is None
    shown = imagecodecs.jpegxl_decode(Path("x.jxl").read_bytes())
    np.testing.assert_array_equal(shown, noise(17, 33))


def test_a_jpeg_xl_file_that_exists_is_not_replaced(capsys: Capture) -> None:
    paint("x.png", noise(16, 16))
    Path("x.jxl").write_text("mine")
    assert main(["encode", "x.png", *LITE, "--min-psnr", "28"]) == 1
    assert "x.jxl exists; replace it with --overwrite" in capsys.readouterr().err
    assert Path("x.jxl").read_text() == "mine"
    assert not Path("x.cdi").exists()


@pytest.mark.parametrize("floor", ["0", "-3", "nan", "inf", "good"])
def test_a_floor_that_is_no_decibels_is_refused(floor: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["encode", "x.png", f"--min-psnr={floor}"])
    assert f"expected decibels, as in 28, got '{floor}'" in capsys.readouterr().err


# EXIF and colour profiles

#: Made once: a profile says when it was made, to the second.
PROFILE = imagecodecs.cms_profile("srgb")


def photograph(name: str, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = orientation, "Ada"
    paint(name, draw(17, 33, 0), exif=exif, icc_profile=PROFILE)


def test_metadata_is_dropped_unless_asked_for(capsys: Capture) -> None:
    photograph("x.jpg")
    plain = encode(capsys, "x.jpg", *LITE)
    assert b"Ada" not in Path("x.cdi").read_bytes()
    assert (plain["height"], plain["width"]) == (33, 17)
    kept = encode(capsys, "x.jpg", *LITE, "--keep", "exif", "--overwrite")
    assert b"Ada" in Path("x.cdi").read_bytes()
    assert plain["bytes"] < kept["bytes"] < plain["bytes"] + 150


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_metadata_comes_back_with_the_picture(suffix: str, capsys: Capture) -> None:
    photograph("x.jpg")
    encode(capsys, "x.jpg", *LITE, "--keep", "exif,icc")
    assert main(["decode", "x.cdi", "-o", f"y.{suffix}"]) == 0
    with Image.open(f"y.{suffix}") as image:
        image.load()
        assert image.size == (17, 33)
        assert image.getexif()[ExifTags.Base.Artist] == "Ada"
        assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert image.info["icc_profile"] == PROFILE


def test_damaged_metadata_is_left_out_with_a_note(capsys: Capture) -> None:
    paint("x.jpg", draw(17, 33, 0), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09short")
    assert main(["encode", "x.jpg", *LITE, "--keep", "exif,icc"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("x.jpg -> x.cdi: ")
    assert err.startswith("cdinfer encode: x.jpg: its EXIF is not kept: it is damaged")
    assert len(err.splitlines()) == 1


def test_jpeg_xl_takes_no_metadata_along_and_says_so(capsys: Capture) -> None:
    paint("x.png", noise(16, 16), icc_profile=PROFILE)
    assert main(["encode", "x.png", *LITE, "--keep", "icc", "--min-psnr", "28"]) == 0
    assert "its EXIF and ICC are not kept in JPEG XL" in capsys.readouterr().err


def test_an_unknown_kind_of_metadata_names_the_known(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["encode", "x.png", "--keep", "xmp"])
    assert "expected exif, icc or both, got 'xmp'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encode", "decode", "export"])
def test_help_names_the_flags(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--precision" in text
    if command == "encode":
        assert "EXIF and colour profile are dropped unless --keep is given" in text


# Precision


def test_precisions_give_nearly_the_same_file_and_picture(capsys: Capture) -> None:
    paint("x.png", draw(96, 128, 0))
    sizes = []
    for precision in ("fp32", "bf16"):
        row = encode(capsys, "x.png", *LITE, "--precision", precision, "-o", f"{precision}.cdi")
        sizes.append(row["bytes"])
    for precision in ("fp32", "bf16"):
        flags = ["--precision", precision, "-o", f"{precision}.png"]
        assert main(["decode", "fp32.cdi", *flags]) == 0
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    one, other = (read_image(f"{precision}.png").astype(int) for precision in ("fp32", "bf16"))
    assert np.abs(one - other).max() <= 1


# Sets


@pytest.fixture
def photos() -> Path:
    """Two pictures of each of two classes."""
    for i in range(4):
        paint(f"photos/{('left', 'right')[i % 2]}/{i}.png", draw(48, 64, i))
    return Path("photos")


def test_pictures_below_the_floor_are_listed_and_dropped_on_request(
    photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    paint(f"{photos}/left/noise.png", noise(48, 64))
    args = ["export", str(photos), "--codec", "cae-lite", "--min-psnr", "20", "--json"]
    for drop, verb in (([], "kept"), (["--drop"], "left out")):
        folder = tmp_path / verb
        assert main([*args, *drop, str(folder)]) == 0
        out, err = capsys.readouterr()
        row = json.loads(out)
        ((key, psnr),) = row["below_floor"]
        assert key == "left/noise.png"
        assert psnr < 20
        assert err == f"cdinfer export: {verb} {photos / key}: {psnr:.2f} dB, below 20\n"
        assert (row["pictures"], row["dropped"]) == ((4, 1) if drop else (5, 0))
        index = json.loads((folder / INDEX).read_text())
        assert index["floor"] == {"min_psnr": 20.0, "drop": bool(drop)}
        sets = [ShardDataset(folder, split, None, whole=True) for split in ("train", "val")]
        assert (key in sets[0].keys() + sets[1].keys()) == (not drop)
    assert main([*args, str(folder)]) == 2
    assert "holds another export (its floor differs)" in capsys.readouterr().err


def test_a_set_of_pictures_below_the_floor_alone_is_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    paint("photos/a/x.png", noise(48, 64))
    args = ["export", "photos", "out", "--codec", "cae-lite", "--min-psnr", "20", "--drop"]
    assert main(args) == 2
    assert "exported without --drop keeps what is below its floor" in capsys.readouterr().err


def test_dropping_needs_a_floor(photos: Path, capsys: Capture) -> None:
    assert main(["export", str(photos), "out", "--codec", "cae-lite", "--drop"]) == 2
    assert "--drop leaves out what --min-psnr finds: give --min-psnr 28" in capsys.readouterr().err


def test_the_precision_is_recorded_and_not_mixed(photos: Path, capsys: Capture) -> None:
    args = ["export", str(photos), "out", "--codec", "cae-lite"]
    assert main([*args, "--precision", "bf16"]) == 0
    assert json.loads((Path("out") / INDEX).read_text())["encoder"]["precision"] == "bf16"
    assert main(args) == 2
    assert "holds another export (its encoder differs)" in capsys.readouterr().err


# Odd pictures and many of them


@pytest.mark.parametrize("bpp", OPERATING_POINTS)
@pytest.mark.parametrize(
    "picture",
    [
        draw(1, 1, 0),
        draw(1, 4000, 0),
        draw(4000, 1, 0),
        draw(17, 33, 0),
        np.zeros((64, 48, 3), np.uint8),
        noise(64, 48),
    ],
    ids=["1x1", "1x4000", "4000x1", "17x33", "black", "noise"],
)
def test_any_picture_comes_back_and_its_bytes_are_bounded(
    picture: Picture, bpp: float, capsys: Capture
) -> None:
    paint("x.png", picture)
    row = encode(capsys, "x.png", "--bpp", bpp)
    height, width = picture.shape[:2]
    symbols = OPERATING_POINTS[bpp] * math.ceil(height / 8) * math.ceil(width / 8)
    assert row["bytes"] <= 22 + 4 + math.ceil(
        12.1 * symbols / 8
    )  # a symbol costs 12.1 bits at most
    assert main(["decode", "x.cdi", "-o", "y.png"]) == 0
    shown = read_image("y.png")
    assert shown.shape == picture.shape
    if picture.max() == 0:
        assert shown.max() <= 24  # at corners: beyond them the net sees grey
        assert row["bytes"] < 200


def test_of_a_hundred_files_three_bad_ones_are_named(capsys: Capture) -> None:
    kinds = ("png", "jpg", "bmp", "webp", "tif", "ppm", "gif")
    modes = ("RGB", "L", "RGBA", "P", "1")
    sizes = ((48, 64), (17, 9), (1, 1), (8, 100))
    Path("in").mkdir()
    for i in range(97):
        kind, mode = kinds[i % len(kinds)], modes[i % len(modes)]
        if kind in ("jpg", "ppm", "bmp") and mode in ("RGBA", "P"):
            mode = "L"
        image = Image.fromarray(draw(*sizes[i % len(sizes)], seed=i)).convert(mode)
        image.save(f"in/{i:02}.{kind}")
    Path("in/cut.png").write_bytes(Path("in/00.png").read_bytes()[:200])
    Path("in/empty.jpg").touch()
    Path("in/text.tif").write_text("not a picture")
    assert main(["encode", "in", *LITE, "-o", "out"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 97
    named = [line.split(": ")[1] for line in err.splitlines()]
    assert named == ["in/cut.png", "in/empty.jpg", "in/text.tif"]
    assert len(list(Path("out").iterdir())) == 97
