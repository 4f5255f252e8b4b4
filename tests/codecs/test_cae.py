from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cdinfer.bitstream import Tables, ideal_bits, parse
from cdinfer.codecs import CAE, read_codec
from cdinfer.codecs.cae import latent_channels
from cdinfer.models import count_macs
from tests.conftest import draw

HEADER, STATE = 22, 4
SIZES = [(1, 1), (5, 3), (8, 8), (17, 9), (64, 48)]


@pytest.fixture
def codec(tiny_codec: Path) -> CAE:
    return read_codec(tiny_codec)


def batch(*images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


# The architecture


@pytest.mark.parametrize(("bpp", "channels"), [(0.0983, 8), (0.330, 16), (0.635, 32)])
def test_latents_are_an_eighth_of_the_picture(bpp: float, channels: int) -> None:
    latents = CAE(bpp, width=0.125).encode(torch.rand(2, 3, 64, 48))
    assert latents.y.shape == (2, channels, 8, 6)
    assert latents.sigma is None


def test_the_encoder_costs_what_was_published() -> None:
    assert count_macs(CAE(0.635).g_a, (1, 3, 224, 224)) / 1e9 == pytest.approx(3.557, abs=5e-4)


def test_the_layers_are_those_of_the_paper() -> None:
    def layers(net: nn.Module, kind: type[nn.Conv2d | nn.ConvTranspose2d]) -> list[tuple[int, ...]]:
        found = [m for m in net.modules() if isinstance(m, kind)]
        return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in found]

    codec = CAE(0.330)
    units = [(128, 128, 3, 1)] * 6
    down = [(3, 64, 5, 2), (64, 128, 5, 2), *units, (128, 16, 5, 2)]
    assert layers(codec.g_a, nn.Conv2d) == down
    assert layers(codec.g_s, nn.Conv2d) == units
    up = [(16, 128, 5, 2), (128, 64, 5, 2), (64, 3, 5, 2)]
    assert layers(codec.g_s, nn.ConvTranspose2d) == up


def test_a_narrow_codec_has_the_same_latents() -> None:
    narrow = CAE(0.330, width=0.25)
    assert narrow.channels == 16
    assert count_macs(narrow.g_a, (1, 3, 224, 224)) < 0.1 * count_macs(
        CAE(0.330).g_a, (1, 3, 224, 224)
    )


def test_an_unknown_rate_names_the_nearest() -> None:
    assert latent_channels(0.635) == 32
    with pytest.raises(ValueError, match=r"0\.4 bpp .*use --bpp 0\.33"):
        CAE(0.4)


@pytest.mark.parametrize("width", [0, -1.0, 5, 1e9, float("nan")])
def test_absurd_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"expected width in \(0, 4\]"):
        CAE(0.33, width=width)


@pytest.mark.parametrize("levels", [1, 257, 10**9])
def test_absurd_numbers_of_centers_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=r"expected levels in \[2, 256\]"):
        CAE(0.33, levels=levels)


# Symbols and bytes


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_symbols_survive_the_file_exactly(codec: CAE, height: int, width: int) -> None:
    x = batch(*(draw(height, width, seed) for seed in range(3)))
    planes = codec.unpack(codec.compress(x))
    assert planes["y"].dtype == torch.uint8
    assert planes["y"].shape == (3, 16, -(-height // 8), -(-width // 8))
    assert torch.equal(planes["y"], codec.symbols(x))
    torch.testing.assert_close(codec.dequantize(planes).y, codec.encode(x).y)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pictures_come_back_in_their_size(codec: CAE, height: int, width: int) -> None:
    x = batch(draw(height, width, 0))
    x_hat = codec.decompress(codec.compress(x))
    assert x_hat.shape == x.shape
    assert x_hat.min() >= 0
    assert x_hat.max() <= 1
    whole = codec.decode(codec.encode(x).y.detach())
    torch.testing.assert_close(x_hat, whole[..., :height, :width].clamp(0, 1))


def test_padding_is_replication(codec: CAE) -> None:
    image = draw(17, 9, 0)
    padded = np.pad(image, [(0, 7), (0, 7), (0, 0)], mode="edge")
    assert torch.equal(codec.symbols(batch(image)), codec.symbols(batch(padded)))


def test_the_file_is_as_large_as_its_tables_promise(codec: CAE) -> None:
    x = batch(draw(160, 208, 0), draw(160, 208, 1))
    assert codec.tables is not None
    ideal = ideal_bits(codec.symbols(x).numpy(), codec.tables) / 8
    sizes = np.array([len(data) for data in codec.compress(x)])
    np.testing.assert_allclose(sizes - HEADER - STATE, ideal, rtol=0.02)
    bits_est = codec.encode(x).bits_est
    assert bits_est is not None
    np.testing.assert_allclose(bits_est.detach() / 8, ideal, rtol=1e-4)
    np.testing.assert_allclose(codec.symbol_bits(codec.symbols(x)) / 8, ideal, rtol=1e-4)


def test_a_file_depends_neither_on_threads_nor_on_its_batch(
    codec: CAE, pictures: list[npt.NDArray[np.uint8]]
) -> None:
    data = codec.compress(batch(*pictures * 4))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([codec.unpack([file])["y"] for file in data])
        torch.set_num_threads(2)
        together = codec.unpack(data)["y"]
    finally:
        torch.set_num_threads(before)
    assert len(data) == 32
    assert torch.equal(alone, together)


def test_files_of_different_picture_sizes_are_not_decoded_together(codec: CAE) -> None:
    data = codec.compress(batch(draw(16, 16, 0))) + codec.compress(batch(draw(15, 16, 0)))
    assert codec.unpack(data)["y"].shape == (2, 16, 2, 2)
    with pytest.raises(ValueError, match="pictures of one size"):
        codec.decompress(data)


# Training and freezing


def test_the_running_histogram_moves_by_two_percent_a_step() -> None:
    codec = CAE(0.33, width=0.125)
    x = batch(draw(64, 48, 0))
    codec.eval().encode(x)
    assert torch.equal(codec.frequencies, torch.full((16, 6), 1 / 6))
    codec.train().encode(x)
    symbols = codec.symbols(x).long()
    share = torch.stack([torch.bincount(s.flatten(), minlength=6) / 48 for s in symbols[0]])
    torch.testing.assert_close(codec.frequencies, 0.98 / 6 + 0.02 * share)


def test_files_written_while_training_are_marked_and_readable() -> None:
    codec = CAE(0.33, width=0.125)
    x = batch(draw(64, 48, 0))
    (data,) = codec.compress(x)
    assert parse(data).header.provisional
    assert torch.equal(codec.unpack([data])["y"], codec.symbols(x))


def test_a_frozen_codec_writes_final_files_and_takes_no_gradients(codec: CAE) -> None:
    (data,) = codec.compress(batch(draw(8, 8, 0)))
    assert not parse(data).header.provisional
    assert parse(data).header.stream == codec.stream
    assert not codec.training
    assert not any(p.requires_grad for p in codec.parameters())


def test_centers_and_tables_identify_the_stream_and_decoder_weights_do_not(codec: CAE) -> None:
    own = codec.stream
    for parameter in [*codec.g_s.parameters(), *codec.g_a.parameters()]:
        parameter.zero_()
    assert codec.stream == own
    codec.centers[0] += 0.25
    moved = codec.stream
    assert moved != own
    assert codec.tables is not None
    frequencies = codec.tables.frequencies.astype(int)
    frequencies[0, :2] += (1, -1)
    codec.set_tables(Tables(frequencies))
    assert codec.stream not in (own, moved)
    np.testing.assert_array_equal(codec.frequencies * 4096, frequencies)


def test_gradients_of_picture_and_rate_reach_every_weight() -> None:
    codec = CAE(0.33, width=0.125)
    codec.frequencies.copy_(torch.arange(1.0, 7) / 21)
    x = batch(draw(64, 48, 0))
    latents = codec.encode(x)
    assert latents.bits_est is not None
    codec.decode(latents.y).square().mean().backward(retain_graph=True)
    assert all(p.grad is not None and p.grad.any() for p in codec.parameters())
    codec.zero_grad()
    latents.bits_est.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in codec.g_a.parameters())
