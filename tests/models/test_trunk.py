"""A network recipe as configuration files and dotted overrides write it."""

import json

import pytest
from jsonargparse import ArgumentError, auto_cli

from cdinfer.models import CResNet, NetRecipe, ResNet, Trunk

HALF = {"class_path": "CResNet", "init_args": {"depth": 39, "width": 0.5}}


class Task:
    """Something with a network, as the tasks are."""

    def __init__(self, net: NetRecipe = CResNet) -> None:
        self.trunk = net(channels=16, stride=8, sigma=False)


def parse(*args: str) -> Trunk:
    return auto_cli(Task, args=list(args), exit_on_error=False).trunk


def test_a_recipe_is_a_class_and_its_options() -> None:
    net = parse(f"--net={json.dumps(HALF)}")
    assert isinstance(net, CResNet)
    assert (net.out_channels, len(net.layer3)) == (1024, 6)


def test_options_are_overridden_by_dots() -> None:
    net = parse("--net=CResNet", "--net.depth=51", "--net.width=0.1")
    assert (net.out_channels, len(net.layer3)) == (192, 10)


def test_a_default_recipe_is_overridden_by_dots() -> None:
    assert parse("--net.width=0.25").out_channels == 512


def test_what_the_codec_knows_cannot_be_configured() -> None:
    with pytest.raises(ArgumentError, match=r"'stride' is not (accepted|expected)"):
        parse("--net=CResNet", "--net.stride=16")


def test_depths_are_checked_before_anything_is_built() -> None:
    with pytest.raises(ArgumentError, match=r"Literal\[39, 51, 72\]"):
        parse("--net=CResNet", "--net.depth=50")


def test_a_network_on_pixels_refuses_latents() -> None:
    with pytest.raises(ValueError, match="ResNet reads RGB pixels"):
        Task(ResNet)
