import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms.functional import normalize

from cdinfer.models import Classifier, CResNet, ResNet


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Return torchvision's ResNet-50, untrained, with statistics unlike those of a new net."""
    torch.manual_seed(0)
    net = resnet50(weights=None).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1)
    return net


@torch.no_grad()
def test_weights_of_torchvision_give_the_same_logits(reference: nn.Module) -> None:
    net = Classifier(ResNet(), 1000).eval()
    weights = reference.state_dict()
    net.fc.load_state_dict({key: weights.pop(f"fc.{key}") for key in ("weight", "bias")})
    net.trunk.load_state_dict(weights, strict=True)
    image = torch.rand(2, 3, 64, 48)
    expected = reference(normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4 * expected.std())
    assert sum(p.numel() for p in net.parameters()) == 25_557_032


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_features_are_those_of_torchvision(
    output_stride: int, reference: nn.Module
) -> None:
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
    theirs.load_state_dict(reference.state_dict())
    theirs.eval()
    net = ResNet(output_stride=output_stride).eval()
    net.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    image = torch.rand(2, 3, 64, 48)
    x = normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = theirs.get_submodule(name)(x)
    features = net(image)
    assert features.shape == (2, 2048, 64 // output_stride, 48 // output_stride)
    assert net.reduction == output_stride
    torch.testing.assert_close(features, x, rtol=1e-4, atol=1e-4 * x.std())


def test_late_weights_of_torchvision_fit_a_cresnet(reference: nn.Module) -> None:
    net = CResNet(16, 8, depth=39)
    theirs = reference.state_dict()
    unlike = [key for key, value in net.state_dict().items() if theirs[key].shape != value.shape]
    assert unlike == ["layer2.0.conv1.weight", "layer2.0.downsample.0.weight"]


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(("width", "features"), [(0.5, 1024), (0.25, 512)])
def test_pixels_become_features_at_a_thirty_second_of_the_size(
    width: float, features: int, v1: bool
) -> None:
    net = ResNet(width=width, v1=v1)
    assert net(torch.rand(2, 3, 64, 48)).shape == (2, features, 2, 2)
    assert net.out_channels == features


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = ResNet(width=0.25)
    net(torch.rand(2, 3, 64, 48)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_convolutions_start_from_he_s_distribution() -> None:
    torch.manual_seed(0)
    weight = ResNet().conv1.weight  # 64 filters of 3x7x7
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.03)


@torch.no_grad()
def test_images_in_channels_last_order_stay_so() -> None:
    net = ResNet(width=0.25).double().eval()
    image = torch.rand(2, 3, 64, 48).double()
    expected = net(image)
    y = net.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=0)


def test_stride_moves_from_the_first_convolution_to_the_second() -> None:
    first, later = ResNet(width=0.1, v1=True).layer3[0], ResNet(width=0.1).layer3[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert (later.conv1.stride, later.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    "options", [{"channels": 16}, {"stride": 8}, {"sigma": True}], ids=lambda o: next(iter(o))
)
def test_latents_are_refused_with_the_remedy(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"reads RGB pixels .* use a CResNet as net for latents"):
        ResNet(**options)


def test_unknown_depth_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"depths \[50, 71\], got 51"):
        ResNet(depth=51)


@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_width_must_be_positive(width: float) -> None:
    with pytest.raises(ValueError, match=r"above 0, got .*; try 0\.5"):
        ResNet(width=width)
