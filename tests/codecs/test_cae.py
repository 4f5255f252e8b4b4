from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cdinfer.bitstream import ContextModel, parse
from cdinfer.bitstream.rans import ideal_bits
from cdinfer.codecs import CAE, read_codec
from cdinfer.codecs.cae import Design, latent_channels
from cdinfer.models import count_macs
from tests.conftest import draw, random_codec

HEADER, STATE = 22, 4
SIZES = [(1, 1), (5, 3), (8, 8), (17, 9), (64, 48)]
DESIGNS: Sequence[Design] = get_args(Design)
Pictures = list[npt.NDArray[np.uint8]]


@pytest.fixture
def codec(tiny_codec: Path) -> CAE:
    return read_codec(tiny_codec)


@pytest.fixture(scope="session", params=DESIGNS)
def each(request: pytest.FixtureRequest, pictures: Pictures) -> CAE:
    """A frozen codec of each design; left as it is."""
    return random_codec(0, pictures, request.param)


def batch(*images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def model_of(codec: CAE) -> ContextModel:
    assert codec.model is not None
    return codec.model


# The architecture


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("bpp", "channels"), [(0.0983, 8), (0.330, 16), (0.635, 32)])
def test_latents_are_an_eighth_of_the_picture(bpp: float, channels: int, design: Design) -> None:
    latents = CAE(bpp, 0.125, design).encode(torch.rand(2, 3, 64, 48))
    assert latents.y.shape == (2, channels, 8, 6)
    assert latents.sigma is None
    assert latents.bits_est is not None
    assert latents.bits_est.shape == (2,)


def test_the_papers_encoder_costs_what_was_published() -> None:
    macs = count_macs(CAE(0.635, design="cae-paper").g_a, (1, 3, 224, 224))
    assert macs / 1e9 == pytest.approx(3.557, abs=5e-4)


def test_the_layers_are_those_of_the_paper() -> None:
    def layers(net: nn.Module, kind: type[nn.Conv2d | nn.ConvTranspose2d]) -> list[tuple[int, ...]]:
        found = [m for m in net.modules() if isinstance(m, kind)]
        return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in found]

    codec = CAE(0.330, design="cae-paper")
    units = [(128, 128, 3, 1)] * 6
    down = [(3, 64, 5, 2), (64, 128, 5, 2), *units, (128, 16, 5, 2)]
    assert layers(codec.g_a, nn.Conv2d) == down
    assert layers(codec.g_s, nn.Conv2d) == units
    up = [(16, 128, 5, 2), (128, 64, 5, 2), (64, 3, 5, 2)]
    assert layers(codec.g_s, nn.ConvTranspose2d) == up


@pytest.mark.parametrize("design", DESIGNS)
def test_a_narrow_codec_has_the_same_latents(design: Design) -> None:
    full, narrow = (CAE(0.330, width, design) for width in (1.0, 0.25))
    assert narrow.channels == full.channels == 16
    costs = [count_macs(codec.g_a, (1, 3, 64, 64)) for codec in (full, narrow)]
    assert costs[1] < 0.2 * costs[0]


def test_an_unknown_rate_names_the_nearest() -> None:
    assert latent_channels(0.635) == 32
    with pytest.raises(ValueError, match=r"0\.4 bpp .*use --bpp 0\.33"):
        CAE(0.4)


@pytest.mark.parametrize("width", [0, -1.0, 5, 1e9, float("nan")])
def test_absurd_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"expected width in \(0, 4\]"):
        CAE(0.33, width=width)


def test_unknown_designs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected design cae or cae-lite or cae-paper, got vae"):
        CAE(0.33, design="vae")  # type: ignore[arg-type]


# Symbols and bytes


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_symbols_survive_the_file_exactly(each: CAE, height: int, width: int) -> None:
    x = batch(*(draw(height, width, seed) for seed in range(3)))
    planes = each.unpack(each.compress(x))
    assert planes["y"].dtype == torch.uint8
    assert planes["y"].shape == (3, 16, -(-height // 8), -(-width // 8))
    assert torch.equal(planes["y"], each.symbols(x))
    assert torch.equal(each.dequantize(planes).y, each.encode(x).y)


def test_the_first_groups_of_a_file_decode_alone(codec: CAE) -> None:
    x = batch(*(draw(33, 40, seed) for seed in range(3)))
    files, symbols = codec.compress(x, groups=(2, 5, 9)), codec.symbols(x)
    for groups, channels in enumerate((2, 7, 16), start=1):
        planes = codec.unpack(files, groups)
        assert torch.equal(planes["y"], symbols[:, :channels])
        assert torch.equal(codec.dequantize(planes).y, codec.encode(x).y[:, :channels])
    with pytest.raises(ValueError, match=r"channel groups that sum to 16 channels, got \(2, 5\)"):
        codec.compress(x, groups=(2, 5))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pictures_come_back_in_their_size(each: CAE, height: int, width: int) -> None:
    x = batch(draw(height, width, 0))
    x_hat = each.decompress(each.compress(x))
    assert x_hat.shape == x.shape
    assert x_hat.min() >= 0
    assert x_hat.max() <= 1
    whole = each.decode(each.encode(x).y)
    torch.testing.assert_close(x_hat, whole[..., :height, :width].clamp(0, 1))


def test_symbols_stand_for_the_numbers_the_model_was_fitted_to(
    each: CAE, pictures: Pictures
) -> None:
    x = batch(*pictures)
    k, symbols, model = each.numbers(x), each.symbols(x), model_of(each)
    assert k.min() < 0 < k.max()
    zeros = torch.from_numpy(model.zeros.astype(int))[:, None, None]
    assert torch.equal(symbols - zeros, k.long())
    values = torch.stack([each.quantizer.values(one.flatten(1)).view(one.shape) for one in k])
    torch.testing.assert_close(each.encode(x).y, values)


def test_numbers_never_seen_become_the_nearest_that_can_be_coded(
    each: CAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = torch.tensor([-1e4, 1e4]).repeat(1, each.channels, 1, 1)
    monkeypatch.setattr(each, "_analysis", lambda x: far)
    symbols = each.symbols(torch.zeros(1, 3, 8, 16))
    np.testing.assert_array_equal(symbols[0, :, 0, 0], 0)
    np.testing.assert_array_equal(symbols[0, :, 0, 1], model_of(each).sizes - 1)


def test_padding_is_replication(each: CAE) -> None:
    image = draw(17, 9, 0)
    padded = np.pad(image, [(0, 7), (0, 7), (0, 0)], mode="edge")
    assert torch.equal(each.symbols(batch(image)), each.symbols(batch(padded)))


def test_the_file_is_as_large_as_its_tables_promise(each: CAE) -> None:
    x = batch(draw(160, 208, 0), draw(160, 208, 1))
    ideal = ideal_bits(each.symbols(x).numpy(), model_of(each)) / 8
    sizes = np.array([len(data) for data in each.compress(x)])
    np.testing.assert_allclose(sizes - HEADER - STATE, ideal, rtol=0.005, atol=2)
    np.testing.assert_allclose(each.symbol_bits(each.symbols(x)) / 8, ideal)
    assert each.encode(x).bits_est is None


@pytest.mark.parametrize("picture", ["black", "noise"])
def test_no_picture_costs_more_than_the_rarest_symbols(codec: CAE, picture: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)
    x = batch(noise if picture == "noise" else np.zeros_like(noise))
    (data,) = codec.compress(x)
    assert len(data) <= HEADER + STATE + 12.1 / 8 * 16 * 8 * 6
    assert torch.equal(codec.unpack([data])["y"], codec.symbols(x))


def test_a_file_depends_neither_on_threads_nor_on_its_batch(codec: CAE, pictures: Pictures) -> None:
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


@pytest.mark.parametrize("design", DESIGNS)
def test_a_codec_without_tables_says_what_to_run(design: Design) -> None:
    codec, x = CAE(0.33, 0.125, design), torch.zeros(1, 3, 8, 8)
    match = f"this {design} has not been trained, .*: run cdinfer train --task codec --bpp 0.33"
    for use in (codec.compress, codec.symbols, lambda _: codec.stream):
        with pytest.raises(ValueError, match=match):
            use(x)


@pytest.mark.parametrize("design", DESIGNS)
def test_files_written_while_training_are_marked_and_readable(design: Design) -> None:
    codec, x = CAE(0.33, 0.125, design), batch(draw(64, 48, 0))
    codec.fit(list(codec.numbers(x).numpy()))
    (data,) = codec.compress(x)
    assert parse(data).header.provisional
    assert torch.equal(codec.unpack([data])["y"], codec.symbols(x))
    assert codec.training
    assert all(p.requires_grad for p in codec.parameters())
    assert codec.encode(x).bits_est is not None


def test_a_frozen_codec_writes_final_files_and_takes_no_gradients(codec: CAE) -> None:
    (data,) = codec.compress(batch(draw(8, 8, 0)))
    assert not parse(data).header.provisional
    assert parse(data).header.stream == codec.stream
    assert not codec.training
    assert not any(p.requires_grad for p in codec.parameters())


def test_centers_and_tables_identify_the_stream_and_weights_do_not(codec: CAE) -> None:
    own = codec.stream
    for parameter in codec.parameters():
        parameter.zero_()
    assert codec.stream == own
    codec.centers[0, 0] -= 0.25
    moved = codec.stream
    assert moved != own
    parts = vars(model_of(codec)).copy()
    frequencies = parts["frequencies"].copy()
    frequencies[0, np.argmax(frequencies[0])] -= 1
    frequencies[0, np.argmin(frequencies[0, : model_of(codec).sizes[0]])] += 1
    names = ContextModel.__dataclass_fields__
    changed = {name: parts[name] for name in names} | {"frequencies": frequencies}
    codec.set_tables(ContextModel(**changed), codec.centers)
    assert codec.stream not in (own, moved)


@pytest.mark.parametrize("design", DESIGNS)
def test_gradients_of_picture_and_rate_reach_every_weight(design: Design) -> None:
    def reached(module: nn.Module) -> dict[str, bool]:
        return {n: p.grad is not None and bool(p.grad.any()) for n, p in module.named_parameters()}

    torch.manual_seed(0)
    codec = CAE(0.33, 0.125, design)
    if design == "cae-paper":
        codec.quantizer.get_buffer("frequencies").copy_(torch.arange(1.0, 7) / 21)
    else:
        codec.quantizer.get_parameter("log_step").data -= 3  # several numbers in each channel
    x = batch(draw(64, 48, 0))
    latents = codec.encode(x)
    assert latents.bits_est is not None
    codec.decode(latents.y).square().mean().backward(retain_graph=True)
    of_picture = reached(codec)
    codec.zero_grad()
    latents.bits_est.sum().backward()
    of_rate = reached(codec)
    for name in of_picture:
        assert of_picture[name] or name.startswith("quantizer.prior."), name
        assert of_rate[name] or name.startswith("g_s."), name
