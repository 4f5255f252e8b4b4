from pathlib import Path

import pytest
import torch
import yaml

from cdinfer.models import Classifier, Segmenter
from cdinfer.studies import networks

CONFIG = Path(__file__).parents[2] / "configs" / "seg.yaml"


@pytest.mark.parametrize("name", networks.SEGMENTERS)
def test_every_segmenter_answers_for_every_pixel(name: str) -> None:
    net = networks.build_segmenter(name, (8, 8), 5, width=0.0625)
    x = torch.rand(1, 8, 6, 8) if networks.reads_latents(name) else torch.rand(1, 3, 48, 64)
    assert isinstance(net, Segmenter)
    with torch.no_grad():
        assert net.choose(net(x), (48, 64)).shape == (1, 48, 64)


@pytest.mark.parametrize("name", networks.CLASSIFIERS)
def test_every_classifier_has_a_class_for_a_picture(name: str) -> None:
    with torch.device("meta"):
        net = networks.build_classifier(name, (8, 8), 5)
        shape = (1, 8, 8, 8) if networks.reads_latents(name) else (1, 3, 64, 64)
        assert isinstance(net, Classifier)
        assert net(torch.rand(shape)).shape == (1, 5)


def test_our_segmenter_is_the_one_that_is_trained_by_default() -> None:
    options = yaml.safe_load(CONFIG.read_text())["model"]["init_args"]
    assert options["net"] == {
        "class_path": "CResNet",
        "init_args": {"depth": 39, "width": 1.0, "output_stride": 16},
    }
    assert options["head"] == {"class_path": "LightDecoder", "init_args": {"width": 1.0}}
