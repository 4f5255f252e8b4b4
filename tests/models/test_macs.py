"""Costs and depths of whole networks, on the meta device: no weight is ever drawn."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cdinfer.models import Classifier, CResNet, ResNet, count_macs

PIXELS, LATENTS = (1, 3, 224, 224), (1, 16, 28, 28)


def build(depth: int, v1: bool = False) -> tuple[Classifier, tuple[int, ...]]:
    """Return a classifier of 1000 classes and the shape of one input at 224x224 pixels."""
    with torch.device("meta"):
        if depth in (50, 71):
            return Classifier(ResNet(depth=depth, v1=v1), 1000), PIXELS
        return Classifier(CResNet(16, 8, depth=depth, v1=v1), 1000), LATENTS


@pytest.mark.parametrize(
    ("depth", "gmacs"), [(50, 3.86), (71, 5.38), (39, 2.95), (51, 3.83), (72, 5.36)]
)
def test_v1_costs_what_was_published(depth: int, gmacs: float) -> None:
    net, shape = build(depth, v1=True)
    assert count_macs(net, shape) / 1e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize(("depth", "gmacs"), [(50, 4.089), (39, 3.106), (51, 3.979), (72, 5.508)])
def test_the_default_stride_costs_what_others_measured(depth: int, gmacs: float) -> None:
    net, shape = build(depth)
    assert count_macs(net, shape) / 1e9 == pytest.approx(gmacs, abs=0.0005)


@pytest.mark.parametrize("depth", [50, 71, 39, 51, 72])
@pytest.mark.parametrize("v1", [False, True])
def test_torch_counts_two_flops_per_mac(depth: int, v1: bool) -> None:
    net, shape = build(depth, v1)
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(shape, device="meta"))
    assert 2 * count_macs(net, shape) == counter.get_total_flops()


def test_twelve_more_layers_cost_four_bottlenecks_of_the_fourth_stage() -> None:
    small, shape = build(39)
    large, _ = build(51)
    bottleneck = 14 * 14 * (1024 * 256 + 9 * 256 * 256 + 256 * 1024)
    assert count_macs(large, shape) - count_macs(small, shape) == 4 * bottleneck


@pytest.mark.parametrize(("depth", "mparams"), [(50, 25.6), (39, 25.2), (51, 29.7), (72, 37.5)])
def test_networks_are_as_large_as_others_measured(depth: int, mparams: float) -> None:
    net, _ = build(depth)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(mparams, abs=0.06)


@pytest.mark.parametrize("depth", [50, 71])
def test_a_resnet_is_named_after_its_convolutions_and_its_linear_layer(depth: int) -> None:
    net, _ = build(depth)
    assert num_convolutions(net) + 1 == depth


@pytest.mark.parametrize("depth", [39, 51, 72])
def test_a_cresnet_is_named_after_its_convolutions(depth: int) -> None:
    net, _ = build(depth)
    assert num_convolutions(net) == depth


def num_convolutions(net: nn.Module) -> int:
    """Count convolutions as the papers do, without those of the shortcuts."""
    named = net.named_modules()
    return sum(isinstance(m, nn.Conv2d) and "downsample" not in name for name, m in named)


def test_groups_and_transposed_convolutions_are_counted_too() -> None:
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=4),  # 6x5x8 outputs of 3x3x2
        nn.ConvTranspose2d(8, 3, 5, 2, padding=2, output_padding=1),  # 6x5x8 inputs to 5x5x3
        nn.Linear(10, 7),  # 3x12x7 outputs of 10
    )
    by_hand = 6 * 5 * 8 * 9 * 2 + 6 * 5 * 8 * 25 * 3 + 3 * 12 * 7 * 10
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 8, 6, 5))
    assert count_macs(net, (1, 8, 6, 5)) == by_hand == counter.get_total_flops() / 2


def test_the_cost_grows_with_the_batch() -> None:
    net, shape = build(39)
    assert count_macs(net, (2, *shape[1:])) == 2 * count_macs(net, shape)


def test_counting_leaves_the_network_as_it_was() -> None:
    net = CResNet(4, 8, width=0.1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    count_macs(net, (1, 4, 1, 1))
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
