import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small
from torchvision.transforms.functional import normalize

from cdinfer.models import TorchvisionNet, count_macs

SMALL = "mobilenet_v3_small"


def test_features_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    theirs = mobilenet_v3_small().eval()
    net = TorchvisionNet(name=SMALL).eval()
    net.features.load_state_dict(theirs.features.state_dict())
    x = torch.rand(1, 3, 64, 48)
    expected = theirs.features(normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(
    ("name", "channels", "gmacs"),
    [("mobilenet_v3_large", 960, 0.214), ("convnext_tiny", 768, 4.455)],
)
def test_channels_and_reduction_are_found_out(name: str, channels: int, gmacs: float) -> None:
    with torch.device("meta"):
        net = TorchvisionNet(name=name)
    assert (net.out_channels, net.reduction) == (channels, 32)
    assert count_macs(net, (1, 3, 224, 224)) / 1e9 == pytest.approx(gmacs, abs=0.001)


@pytest.mark.parametrize("name", [SMALL, "convnext_tiny", "vgg11"])
def test_sizes_round_up(name: str) -> None:
    with torch.device("meta"):
        net = TorchvisionNet(name=name).eval()
        assert net(torch.empty(1, 3, 33, 64)).shape == (1, net.out_channels, 2, 2)
        assert net(torch.empty(1, 3, 1, 1)).shape == (1, net.out_channels, 1, 1)


def test_mobile_networks_can_be_narrower() -> None:
    with torch.device("meta"):
        net = TorchvisionNet(width=0.25)
    assert net.out_channels == 240


def test_statistics_follow_within_tens_of_steps() -> None:
    with torch.device("meta"):
        net = TorchvisionNet(name=SMALL)
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_training_can_start_from_weights_that_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    theirs = mobilenet_v3_small().state_dict()
    file = tmp_path / "hub" / "checkpoints" / MobileNet_V3_Small_Weights.DEFAULT.url.split("/")[-1]
    file.parent.mkdir(parents=True)
    torch.save(theirs, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = TorchvisionNet(name=SMALL, weights="DEFAULT")
    mine = net.features.state_dict()
    assert not torch.equal(mine["0.0.weight"], theirs["features.0.0.weight"])
    net.load_weights()
    assert all(torch.equal(mine[name], theirs[f"features.{name}"]) for name in mine)
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=rf"damaged {file}: delete it, to fetch it again"):
        net.load_weights()


def test_weights_that_cannot_be_fetched_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(urllib.request, "_opener", None)  # made by another test, it asks no proxy
    net = TorchvisionNet(name=SMALL, weights="IMAGENET1K_V1")
    place = tmp_path / "hub" / "checkpoints"
    with pytest.raises(ValueError, match=rf"pytorch.org/.*Connection refused.* {place}/, or"):
        net.load_weights()
    assert not list(place.glob("*"))


def test_without_weights_nothing_is_loaded() -> None:
    net = TorchvisionNet(name=SMALL)
    before = net.features[0][0].weight.clone()
    net.load_weights()
    assert torch.equal(net.features[0][0].weight, before)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"name": "mobilenet_v3_larg"}, "no classifier 'mobilenet_v3_larg'; did you mean mobilene"),
        ({"name": "x"}, "no classifier 'x'; use mobilenet_v3_large or convnext_tiny"),
        ({"name": "resnet50"}, "resnet50 has no features to take; use mobilenet_v3_large"),
        ({"name": "swin_t"}, "the features of swin_t are no grid; use mobilenet_v3_large"),
        ({"name": "convnext_tiny", "width": 0.5}, "convnext_tiny has one width, got 0.5; use"),
        ({"weights": "BEST"}, "IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT at width 1, got BEST at"),
        ({"width": 0.5, "weights": "DEFAULT"}, "got DEFAULT at width 0.5"),
        ({"channels": 16, "stride": 8}, "TorchvisionNet reads RGB pixels"),
    ],
)
def test_what_there_is_not_is_refused_with_the_remedy(
    options: dict[str, object], answer: str
) -> None:
    with pytest.raises(ValueError, match=answer):
        TorchvisionNet(**options)  # type: ignore[arg-type]


def test_torchvision_is_imported_when_it_is_needed() -> None:
    code = "import sys, cdinfer.models; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
