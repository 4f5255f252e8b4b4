import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cdinfer.codecs import CAE, load_codec, networks
from cdinfer.codecs.cae import OPERATING_POINTS, Design
from cdinfer.codecs.tiles import parts, seen
from cdinfer.data.images import as_tensor, find_images, read_image
from tests.conftest import draw, random_codec

Pictures = list[npt.NDArray[np.uint8]]

NETS = {
    "cae": networks.Analysis(networks.paper_body(4, 0.125), 4),
    "cae-lite": networks.Analysis(networks.lite_body(4, 0.125), 4),
    "cae-paper": networks.paper_body(4, 0.125),
    "decoder": networks.Synthesis(4, 0.125),
    "paper's decoder": networks.paper_synthesis(4, 0.125),
}
SHIPPED = [(name, bpp) for name in ("cae", "cae-lite") for bpp in OPERATING_POINTS]
SIZES = [(64, 48), (33, 70), (17, 160), (160, 17), (9, 65), (1, 100)]

needs_data = pytest.mark.skipif("CDINFER_TEST_DATA" not in os.environ, reason="no real image sets")


def batch(height: int, width: int) -> Tensor:
    """Two pictures: uint8 ``(2, 3, height, width)``."""
    return torch.stack([as_tensor(draw(height, width, seed)) for seed in range(2)])


# How far a net sees


@pytest.mark.parametrize("rows", [(12, 12), (13, 13), (11, 17), (14, 19)])
@pytest.mark.parametrize("name", NETS)
def test_what_an_output_sees_is_where_its_gradient_is(name: str, rows: tuple[int, int]) -> None:
    net, (first, last) = NETS[name], rows
    decoder = "decoder" in name
    shape = (1, 4, 32, 4) if decoder else (1, 3, 256, 16)
    first, last = (first * 8 + 3, last * 8 + 6) if decoder else (first, last)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    y = nn.Module.double(net)(x)
    y[:, :, first : last + 1].square().sum().backward()
    assert x.grad is not None
    felt = x.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert (felt[0], felt[-1]) == seen(net, first, last)


def test_parts_cover_a_side_once_and_stay_inside_it() -> None:
    for steps in (2, 7, 16, 33):
        for part in (cut := list(parts(NETS["cae"], steps, 4, (8, 1)))):
            assert 0 <= part.source.start < part.source.stop <= 8 * steps
            assert part.source.start % 8 == part.source.stop % 8 == 0
            assert part.source.start // 8 + part.inner.start == part.target.start
        covered = [row for part in cut for row in range(part.target.start, part.target.stop)]
        assert covered == list(range(steps))
        assert max(part.target.stop - part.target.start for part in cut) <= 4


# Tiles and the whole


@pytest.mark.parametrize("design", ["cae", "cae-lite", "cae-paper"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_symbols_and_pixels_of_tiles_are_those_of_the_whole(
    design: Design, height: int, width: int, pictures: Pictures
) -> None:
    codec, x = random_codec(0, pictures, design), batch(height, width)
    sizes = []
    for net in (codec.g_a, codec.g_s):
        net.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    whole, symbols = codec._analysis(x), codec.symbols(x)
    y = codec.dequantize({"y": symbols}).y
    x_hat = codec.decode(y)
    assert len(sizes) == 3
    for tile in (24, 8):
        codec.tile = tile
        torch.testing.assert_close(codec._analysis(x), whole, rtol=0, atol=1e-5)
        assert torch.equal(codec.symbols(x), symbols)
        torch.testing.assert_close(codec.decode(y), x_hat, rtol=0, atol=1e-5)
    assert len(sizes) >= 3 + 3 * 2 + 3 * 3


def test_a_halo_that_is_too_narrow_would_be_noticed(pictures: Pictures) -> None:
    codec, x = random_codec(0, pictures), batch(64, 160)
    symbols = codec.symbols(x)
    left = codec.symbols(x[..., :112])  # the last latents kept below lack 8 of 31 pixels
    assert torch.equal(left[..., :10], symbols[..., :10])
    assert not torch.equal(left[..., :12], symbols[..., :12])


def test_gradients_pass_through_tiles() -> None:
    codec = CAE(0.33, width=0.125)
    x = batch(40, 56) / 255
    gradients = []
    for tile in (codec.tile, 16):
        codec.tile = tile
        codec.zero_grad()
        codec.decode(codec._analysis(x)).square().mean().backward()
        gradients.append(
            [p.grad.clone() for net in (codec.g_a, codec.g_s) for p in net.parameters()]
        )
    for whole, tiled in zip(*gradients, strict=True):
        torch.testing.assert_close(tiled, whole, rtol=1e-3, atol=1e-6)


# Bytes in, bytes out


def test_bytes_and_floats_are_the_same_picture(pictures: Pictures) -> None:
    codec, x = random_codec(0, pictures), batch(33, 70)
    files = codec.compress(x)
    assert files == codec.compress(x / 255)
    x_hat = codec.decompress(files)
    for tile in (codec.tile, 24):
        codec.tile = tile
        rendered = codec.render(files)
        assert rendered.dtype == torch.uint8
        assert rendered.shape == x.shape
        assert (rendered / 255 - x_hat).abs().max() <= 0.5 / 255 + 1e-5


# Precision, threads and kernels: measured bounds


@pytest.mark.parametrize(("name", "bpp"), SHIPPED)
def test_half_precision_flips_few_symbols(name: str, bpp: float) -> None:
    codec = load_codec(name, bpp)
    assert isinstance(codec, CAE)
    x = torch.cat([batch(64, 48)] * 4)
    exact = codec.symbols(x)
    codec.precision = "bf16"
    assert (codec.symbols(x) != exact).float().mean() < 5e-3
    assert codec._analysis(x).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # what switching oneDNN off asks about
@pytest.mark.parametrize("bpp", OPERATING_POINTS)
def test_reconstructions_differ_by_less_than_a_level_however_they_are_computed(bpp: float) -> None:
    codec = load_codec("cae", bpp)
    assert isinstance(codec, CAE)
    y = codec.encode(batch(64, 48)).y
    x_hat = codec.decode(y).clamp(0, 1)
    others = {}
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            others[f"{count} threads"] = codec.decode(y)
    finally:
        torch.set_num_threads(threads)
    with torch.backends.mkldnn.flags(enabled=False):
        others["other kernels"] = codec.decode(y)
    others["alone"] = torch.cat([codec.decode(one[None]) for one in y])
    for how, other in others.items():
        assert (other.clamp(0, 1) - x_hat).abs().max() < 1e-3 / 255, how
    codec.precision = "bf16"
    assert (codec.decode(y).clamp(0, 1) - x_hat).abs().max() < 1 / 255


# Real pictures


def near_a_border(codec: CAE, z: Tensor, places: Tensor) -> bool:
    """Tell whether every chosen entry of ``z`` lies within 1e-4 of a decision boundary."""
    assert codec.model is not None
    for channel, size in enumerate(codec.model.sizes):
        centers = codec.centers[channel, : int(size)]
        borders = (centers[1:] + centers[:-1]) / 2
        chosen = z[:, channel][places[:, channel]]
        if len(chosen) and (chosen[:, None] - borders).abs().min(1).values.max() > 1e-4:
            return False
    return True


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "bpp"), SHIPPED)
@pytest.mark.parametrize(
    ("pictures", "step", "tile", "most"), [("kodak", 1, 256, 0.0), ("rsscn7", 20, 96, 1e-5)]
)
def test_real_pictures_have_the_symbols_of_the_whole(
    name: str, bpp: float, pictures: str, step: int, tile: int, most: float
) -> None:
    codec = load_codec(name, bpp)
    assert isinstance(codec, CAE)
    symbols = flips = 0
    for path in find_images(Path(os.environ["CDINFER_TEST_DATA"]) / pictures)[::step]:
        x = as_tensor(read_image(path))[None]
        codec.tile = 4096
        whole, z = codec.symbols(x), codec._analysis(x)
        codec.tile = tile
        flipped = codec.symbols(x) != whole
        assert near_a_border(codec, z, flipped)
        symbols, flips = symbols + whole.numel(), flips + int(flipped.sum())
    assert symbols > 10**5
    assert flips <= most * symbols


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", ["cae", "cae-lite"])
def test_a_picture_of_44_megapixels_takes_less_than_three_gigabytes(
    name: str, tmp_path: Path
) -> None:
    picture = Path(os.environ["CDINFER_TEST_DATA"]) / "highres" / "tarantula_nebula.jpg"
    for command in (
        ["encode", str(picture), "--codec", name, "-o", "x.cdi"],
        ["decode", "x.cdi", "-o", "x.ppm"],
    ):
        code = (
            "import resource, sys; from cdinfer.__main__ import main\n"
            f"status = main({command!r})\n"
            "sys.exit(status or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 3 * 10**6)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
    assert read_image(tmp_path / "x.ppm").shape == (4968, 8832, 3)
