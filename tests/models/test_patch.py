import pytest
import torch

from cdinfer.models import CResNet, PatchCResNet, count_macs


def test_full_width_turns_224x224_pixels_into_7x7x2048() -> None:
    with torch.device("meta"):
        net = PatchCResNet(depth=51)
        assert net(torch.empty(1, 3, 224, 224)).shape == (1, 2048, 7, 7)
    assert (net.out_channels, net.reduction) == (2048, 32)


@pytest.mark.parametrize(("output_stride", "side"), [(8, 5), (16, 3), (32, 2)])
def test_sizes_round_up_to_whole_patches(output_stride: int, side: int) -> None:
    net = PatchCResNet(width=0.125, output_stride=output_stride).eval()
    assert net(torch.rand(1, 3, 33, 40)).shape[-2:] == (side, side)
    assert net(torch.rand(1, 3, 1, 1)).shape[-2:] == (1, 1)
    assert net.reduction == output_stride


def test_behind_the_patches_stands_the_trunk_on_latents() -> None:
    net = PatchCResNet(width=0.125).eval()
    x = torch.rand(1, 3, 24, 32)
    patches = net.bn(net.stem(net.normalise(x)))
    assert patches.shape == (1, 192, 3, 4)
    assert torch.equal(net(x), net.cresnet(patches))
    latents = CResNet(192, 8, width=0.125)
    assert {k: v.shape for k, v in latents.state_dict().items()} == {
        k: v.shape for k, v in net.cresnet.state_dict().items()
    }


def test_patches_cost_less_than_a_twentieth_of_the_trunk() -> None:
    with torch.device("meta"):
        net, latents = PatchCResNet(), CResNet(16, 8)
    front = 28 * 28 * (192 * 192 + (192 - 16) * (128 + 512))  # and a wider first block
    assert count_macs(net, (1, 3, 224, 224)) - count_macs(latents, (1, 16, 28, 28)) == front
    assert front < count_macs(latents, (1, 16, 28, 28)) / 20


def test_patches_start_with_filters_as_large_as_other_layers() -> None:
    torch.manual_seed(0)
    net = PatchCResNet(width=0.125)
    size = net.stem.weight.square().sum((1, 2, 3)).mean().item()
    assert size == pytest.approx(2, rel=0.05)  # He's rule on what comes in


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = PatchCResNet(width=0.125)
    net(torch.rand(2, 3, 64, 48)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_latents_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"PatchCResNet reads RGB pixels.*use a CResNet as net"):
        PatchCResNet(channels=16, stride=8)
