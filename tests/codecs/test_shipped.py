"""The codecs inside the package: what a fresh installation encodes and decodes with."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cdinfer.codecs import CAE, load_codec, read_codec, shipped_codecs
from cdinfer.codecs.cae import OPERATING_POINTS
from cdinfer.codecs.stored import FILES, copy_codec
from cdinfer.data.images import find_images, read_image, to_tensor
from cdinfer.metrics import ms_ssim, psnr, round_to_8_bits
from tests.conftest import draw

NAMES = ("cae", "cae-lite")
ALL = [(name, bpp) for name in NAMES for bpp in OPERATING_POINTS]

needs_data = pytest.mark.skipif("CDINFER_TEST_DATA" not in os.environ, reason="no real image sets")


def card(name: str, bpp: float) -> dict[str, Any]:
    (folder,) = (f for f in shipped_codecs() if f.name == f"{name}-{bpp:g}")
    said: dict[str, Any] = json.loads((folder / "codec.json").read_text("utf-8"))["card"]
    return said


def test_every_rate_ships_with_both_encoders_in_little_space() -> None:
    folders = shipped_codecs()
    assert [f.name for f in folders] == [f"{name}-{bpp:g}" for name, bpp in ALL]
    assert sum(f.stat().st_size for folder in folders for f in folder.iterdir()) <= 24e6


@pytest.mark.parametrize(("name", "bpp"), ALL)
def test_a_fresh_installation_needs_no_training(
    name: str, bpp: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = load_codec(name, bpp)
    x = to_tensor(draw(48, 64, 0))[None]
    (file,) = codec.compress(x)
    assert psnr(codec.decompress([file]), x) > 20
    assert isinstance(codec, CAE)
    assert codec.model is not None
    assert codec.model.num_bytes <= 200_000


@pytest.mark.parametrize("bpp", OPERATING_POINTS)
def test_two_encoders_write_one_stream(bpp: float) -> None:
    full, lite = (load_codec(name, bpp) for name in NAMES)
    assert full.stream == lite.stream
    x = to_tensor(draw(48, 64, 1))[None]
    files = full.compress(x)
    assert torch.equal(lite.decompress(files), full.decompress(files))


def test_a_copy_of_a_codec_is_whole(tmp_path: Path) -> None:
    (source,) = (f for f in shipped_codecs() if f.name == "cae-0.0983")
    assert not (source / "decoder.safetensors").exists()
    copy_codec(source, tmp_path / "codec")
    assert all((tmp_path / "codec" / name).is_file() for name in FILES)
    assert read_codec(tmp_path / "codec").stream == read_codec(source).stream


def test_a_codec_without_the_one_it_shares_with_is_refused(tmp_path: Path) -> None:
    (source,) = (f for f in shipped_codecs() if f.name == "cae-0.0983")
    shutil.copytree(source, tmp_path / "cae-0.0983")
    with pytest.raises(ValueError, match=r"damaged codec .*copy the folder again"):
        read_codec(tmp_path / "cae-0.0983")


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "bpp"), ALL)
def test_the_rate_is_nominal_where_it_was_steered(name: str, bpp: float) -> None:
    codec = load_codec(name, bpp)
    rates = []
    for path in find_images(Path(os.environ["CDINFER_TEST_DATA"]) / "photos" / "test"):
        x = to_tensor(read_image(path))[None]
        rates.append(8 * len(codec.compress(x)[0]) / x[0, 0].numel())
    assert sum(rates) / len(rates) == pytest.approx(bpp, rel=0.02)
    assert sum(rates) / len(rates) == pytest.approx(card(name, bpp)["steering"]["bpp"], rel=1e-3)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "bpp"), ALL)
def test_quality_on_kodak_is_what_the_card_says(name: str, bpp: float) -> None:
    codec, said = load_codec(name, bpp), card(name, bpp)["kodak"]
    rows = []
    for path in find_images(Path(os.environ["CDINFER_TEST_DATA"]) / "kodak"):
        x = to_tensor(read_image(path))[None]
        (file,) = codec.compress(x)
        x_hat = round_to_8_bits(codec.decompress([file]))
        rate = 8 * len(file) / x[0, 0].numel()
        rows.append([rate, float(psnr(x_hat, x)), float(ms_ssim(x_hat, x))])
    rate, quality, similarity = torch.tensor(rows).mean(0).tolist()
    assert len(rows) == said["pictures"]
    assert rate == pytest.approx(said["bpp"], rel=1e-3)
    assert quality == pytest.approx(said["psnr"], abs=0.01)
    assert similarity == pytest.approx(said["ms_ssim"], abs=2e-4)
