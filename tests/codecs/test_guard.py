import math
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import torch

from cdinfer import metrics
from cdinfer.bitstream import parse
from cdinfer.codecs import CAE, load_codec
from cdinfer.codecs.guard import encode_above, higher_rates, jpeg_xl, measure, psnr
from cdinfer.data.images import as_tensor
from tests.conftest import draw

Picture = npt.NDArray[np.uint8]


@pytest.fixture
def lite() -> list[CAE]:
    """The light codec at each rate, lowest first."""
    codec = load_codec("cae-lite", 0.0983)
    assert isinstance(codec, CAE)
    return [codec, *higher_rates(codec)]


def noise(height: int, width: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (48, 64), (600, 3)])
def test_psnr_of_bytes_is_that_of_floats(height: int, width: int) -> None:
    x, x_hat = (as_tensor(p) for p in (noise(height, width), draw(height, width, 0)))
    assert psnr(x_hat, x) == pytest.approx(float(metrics.psnr(x_hat[None] / 255, x[None] / 255)))
    assert psnr(x, x) == math.inf


def test_a_file_is_measured_by_what_a_viewer_gets(lite: list[CAE]) -> None:
    x = torch.stack([as_tensor(draw(33, 70, seed)) for seed in range(2)])
    files = lite[1].compress(x)
    x_hat = metrics.round_to_8_bits(lite[1].decompress(files))
    assert measure(lite[1], x, files) == pytest.approx(metrics.psnr(x_hat, x / 255).tolist())


def test_higher_rates_are_those_of_the_same_name(lite: list[CAE]) -> None:
    assert [(codec.name, codec.bpp) for codec in lite] == [
        ("cae-lite", 0.0983), ("cae-lite", 0.33), ("cae-lite", 0.635)
    ]  # fmt: skip
    assert list(higher_rates(lite[2])) == []


def test_rates_that_were_never_trained_are_passed_over(
    lite: list[CAE], nothing_shipped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(higher_rates(lite[0])) == []


def test_pictures_climb_until_they_are_good_enough(lite: list[CAE]) -> None:
    picture = draw(48, 64, 2)
    x = as_tensor(picture)[None]
    reached = [measure(codec, x, codec.compress(x))[0] for codec in lite]
    assert reached[0] < reached[1] < reached[2]
    for rate in range(3):
        attempts = encode_above(reached[rate], picture, lite)
        assert [attempt.psnr for attempt in attempts] == reached[: rate + 1]
        assert [attempt.rate for attempt in attempts] == [0.0983, 0.33, 0.635][: rate + 1]
        assert attempts[-1].file == lite[rate].compress(x)[0]
    *rates, last = encode_above(reached[2] + 0.01, picture, lite)
    assert len(rates) == 3
    assert last.rate is None
    assert last.psnr > reached[2]


def test_fields_go_into_every_file(lite: list[CAE]) -> None:
    (attempt,) = encode_above(1.0, draw(16, 16, 0), lite[:1], (("EXIF", b"MM"),))
    assert parse(attempt.file).header.fields == (("EXIF", b"MM"),)


@pytest.mark.parametrize("floor", [28.0, 38.0])
def test_jpeg_xl_is_at_the_longest_distance_that_is_good_enough(floor: float) -> None:
    picture = noise(64, 48) // 2 + draw(64, 48, 0) // 2
    best = jpeg_xl(picture, floor)
    x = torch.from_numpy(picture)

    def quality(file: bytes) -> float:
        return psnr(torch.from_numpy(imagecodecs.jpegxl_decode(file)), x)

    assert quality(best.file) == best.psnr >= floor
    distance = float(best.how.split()[-1])
    longer = imagecodecs.jpegxl_encode(picture, distance=distance + 0.1, effort=7)
    assert quality(longer) < floor
    assert len(longer) < len(best.file)


def test_a_floor_that_no_distance_meets_makes_the_file_lossless() -> None:
    picture = noise(17, 33)
    best = jpeg_xl(picture, 90.0)
    assert (best.psnr, best.how) == (math.inf, "as lossless JPEG XL")
    np.testing.assert_array_equal(imagecodecs.jpegxl_decode(best.file), picture)
