import math

import pytest
import torch

from cdinfer.models import CResNet


def test_full_width_turns_28x28_latents_into_7x7x2048() -> None:
    with torch.device("meta"):
        net = CResNet(32, 8, depth=51)
        assert net(torch.empty(1, 32, 28, 28)).shape == (1, 2048, 7, 7)
    assert net.out_channels == 2048


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(("width", "features"), [(0.5, 1024), (0.25, 512)])
def test_odd_sizes_round_up(width: float, features: int, v1: bool) -> None:
    net = CResNet(8, 8, width=width, v1=v1).eval()
    assert net(torch.rand(1, 8, 1, 1)).shape == (1, features, 1, 1)
    assert net(torch.rand(2, 8, 5, 3)).shape == (2, features, 2, 1)
    assert net.out_channels == features


def test_channels_are_multiples_of_eight_at_any_width() -> None:
    net = CResNet(16, 8, width=0.3)
    assert [stage[0].conv2.out_channels for stage in net.children()] == [40, 80, 152]


@pytest.mark.parametrize(("output_stride", "reduction"), [(8, 1), (16, 2), (32, 4)])
def test_features_can_stay_as_fine_as_the_latents(output_stride: int, reduction: int) -> None:
    net = CResNet(8, 8, width=0.25, output_stride=output_stride).eval()
    assert net(torch.rand(1, 8, 9, 5)).shape == (1, 512, -(-9 // reduction), -(-5 // reduction))
    assert net.reduction == reduction
    plain = CResNet(8, 8, width=0.25)
    assert [p.shape for p in net.parameters()] == [p.shape for p in plain.parameters()]


def test_other_output_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="expected output_stride 8, 16 or 32, got 4"):
        CResNet(8, 8, output_stride=4)


@pytest.mark.parametrize("depth", [39, 51, 72])
def test_every_parameter_learns(depth: int) -> None:
    torch.manual_seed(0)
    net = CResNet(8, 8, depth=depth, width=0.25)
    net(torch.rand(2, 8, 7, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_convolutions_start_from_he_s_distribution() -> None:
    torch.manual_seed(0)
    weight = CResNet(8, 8, width=0.5).layer4[1].conv3.weight  # 1024 filters of 256x1x1
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.01)


def test_pixels_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="use a ResNet as pixel_net, or input: latents"):
        CResNet(channels=3, stride=1, sigma=False)


def test_scales_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"without scales, got sigma: true; .* --codec cae"):
        CResNet(channels=192, stride=16, sigma=True)


def test_unknown_depth_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"depths \[39, 51, 72\], got 50"):
        CResNet(16, 8, depth=50)
