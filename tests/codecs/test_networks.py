from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdinfer.codecs import networks
from cdinfer.codecs.networks import Analysis, ResidualUnit, Synthesis
from cdinfer.models import count_macs

PIXELS = 64 * 64


def kmacs(net: nn.Module, *shape: int) -> float:
    """Thousand MACs a pixel, on a picture of 64 x 64."""
    return count_macs(net, shape) / PIXELS / 1000


def positive(net: nn.Module) -> nn.Module:
    """The net with weights of 0.01 and no biases: on positive inputs, nothing is cut to 0."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.fill_(0.0 if name.endswith("bias") else 0.01)
    return net


def extent(net: nn.Module, x: Tensor, places: slice) -> tuple[int, int]:
    """First and last row of ``x`` that the output rows ``places`` depend on."""
    x = x.clone().requires_grad_()
    net(x)[:, :, places].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    return int(rows[0]), int(rows[-1])


@pytest.mark.parametrize(
    ("body", "cost"), [(networks.paper_body, 71.3), (networks.lite_body, 9.74)]
)
def test_encoders_cost_what_the_tables_say(
    body: Callable[[int], nn.Sequential], cost: float
) -> None:
    assert kmacs(Analysis(body(32), 32), 1, 3, 64, 64) == pytest.approx(cost, abs=0.05)


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_the_light_encoder_stays_within_its_budget(channels: int) -> None:
    assert kmacs(Analysis(networks.lite_body(channels), channels), 1, 3, 64, 64) <= 10


@pytest.mark.parametrize("channels", [8, 32])
def test_decoders_cost_what_the_table_says(channels: int) -> None:
    assert kmacs(Synthesis(channels), 1, channels, 8, 8) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize("body", [networks.paper_body, networks.lite_body])
@pytest.mark.parametrize("width", [0.125, 0.5])
def test_both_ends_move_by_eight_pixels(
    body: Callable[[int, float], nn.Sequential], width: float
) -> None:
    y = Analysis(body(8, width), 8)(torch.rand(2, 3, 40, 24))
    assert y.shape == (2, 8, 5, 3)
    assert Synthesis(8, width)(y).shape == (2, 3, 40, 24)
    assert networks.paper_synthesis(8, width)(y).shape == (2, 3, 40, 24)


@pytest.mark.parametrize("body", [networks.paper_body, networks.lite_body])
def test_the_output_is_convolutions_plus_a_lapped_transform(
    body: Callable[[int, float], nn.Sequential],
) -> None:
    g_a, g_s = Analysis(body(8, 0.125), 8), Synthesis(8, 0.125)
    x, y = torch.rand(1, 3, 32, 32), torch.rand(1, 8, 4, 4)
    blocks = F.pad(x, (4, 4, 4, 4)).unfold(2, 16, 8).unfold(3, 16, 8)
    linear = torch.einsum("bcyxij,ocij->boyx", blocks, g_a.linear.weight)
    torch.testing.assert_close(g_a(x), g_a.body(x) + linear)
    canvas = torch.zeros(1, 3, 40, 40)
    for row in range(4):
        for column in range(4):
            patch = torch.einsum("bc,coij->boij", y[..., row, column], g_s.linear.weight)
            canvas[..., 8 * row : 8 * row + 16, 8 * column : 8 * column + 16] += patch
    torch.testing.assert_close(g_s(y), g_s.body(y) + canvas[..., 4:36, 4:36])


def test_a_residual_unit_without_weights_passes_all() -> None:
    unit = ResidualUnit(4)
    nn.init.zeros_(unit.body[-1].weight)
    nn.init.zeros_(unit.body[-1].bias)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(unit(x), x)


@pytest.mark.parametrize(
    ("body", "side"),
    [
        # 5x5/2, 5x5/2, six 3x3 at 1/4, 5x5/2
        (networks.paper_body, 1 + 4 + 2 * 4 + 4 * (6 * 2 + 4)),
        # 16x16/8, seven 3x3 at 1/8
        (networks.lite_body, 16 + 8 * 7 * 2),
    ],
)
def test_a_latent_sees_a_finite_stretch_of_the_picture(
    body: Callable[[int, float], nn.Sequential], side: int
) -> None:
    net = positive(Analysis(body(8, 0.125), 8))
    first, last = extent(net, torch.ones(1, 3, 320, 8), slice(20, 21))
    assert last - first + 1 == side


@pytest.mark.parametrize("make", [networks.paper_synthesis, Synthesis])
def test_a_block_of_the_picture_sees_a_finite_stretch_of_latents(
    make: Callable[[int, float], nn.Module],
) -> None:
    first, last = extent(positive(make(8, 0.125)), torch.ones(1, 8, 40, 1), slice(160, 168))
    assert first <= 20 <= last
    assert last - first + 1 <= 23
