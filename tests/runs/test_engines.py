import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from cdinfer.models import ASPP, Classifier, CResNet, LightDecoder, PatchCResNet, Segmenter
from cdinfer.runs import Prediction, engines, load_run
from cdinfer.runs.engines import Engine, check, prepare
from tests.runs.make import make_segmenter_run

#: Number of channels, and a narrow network that reads them.
NETS = {
    "classifier": (16, lambda: Classifier(CResNet(16, 8, width=0.0625), 5)),
    "segmenter": (
        16,
        lambda: Segmenter(CResNet(16, 8, width=0.0625, output_stride=16), LightDecoder, 16, 8, 5),
    ),
    "paper's": (
        16,
        lambda: Segmenter(CResNet(16, 8, width=0.0625, output_stride=8), ASPP, 16, 8, 5),
    ),
    "on pixels": (
        3,
        lambda: Segmenter(PatchCResNet(width=0.0625, output_stride=16), LightDecoder, 3, 1, 5),
    ),
}

#: Batch, height and width: odd ones and the smallest.
SHAPES = ((2, 24, 40), (3, 17, 33), (1, 2, 2), (1, 1, 1))


#: They look without importing: what OpenVINO's import would tell is tested here.
openvino = pytest.mark.skipif("openvino" not in engines.installed(), reason="not installed")
onnx = pytest.mark.skipif("onnx" not in engines.installed(), reason="not installed")


class Fickle(nn.Module):
    """A network whose Python looks at the size of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[-1] % 2 else 2 * x


def build(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    channels, make = NETS[name]
    return make().eval(), channels


def worst(net: nn.Module, channels: int, engine: Engine, precision: str = "fp32") -> float:
    """Return the largest difference to the network itself, over the largest answer."""
    call = prepare(net, channels, engine, precision)
    differences = []
    for batch, height, width in SHAPES:
        x = torch.rand(batch, channels, height, width)
        with torch.inference_mode():
            expected, got = net(x), call(x)
        assert got.shape == expected.shape
        assert got.dtype == torch.float32
        differences.append(float((got - expected).abs().max() / expected.abs().max()))
    return max(differences)


def test_torch_answers_as_the_network_itself_and_bf16_nearly() -> None:
    net, channels = build("segmenter")
    assert worst(net, channels, "torch") < 1e-5
    assert 0 < worst(net, channels, "torch", "bf16") < 0.05
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@openvino
@pytest.mark.parametrize("name", NETS)
def test_openvino_answers_as_torch_does_at_every_size(name: str) -> None:
    net, channels = build(name)
    assert worst(net, channels, "openvino") < 1e-4


@openvino
def test_openvino_computes_in_bf16_nearly_the_same() -> None:
    net, channels = build("classifier")
    assert worst(net, channels, "openvino", "bf16") < 0.05


@openvino
def test_openvino_tells_nobody() -> None:
    prepare(*build("classifier"), "openvino")
    assert sys.modules["openvino_telemetry"] is None


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_onnx_answers_as_torch_does_at_every_size(name: str) -> None:
    net, channels = build(name)
    assert worst(net, channels, "onnx") < 1e-4


@openvino
def test_a_network_that_looks_at_sizes_is_refused() -> None:
    message = r"--engine openvino cannot run this network \(answers 1 off torch's\): give --engine"
    with pytest.raises(ValueError, match=message):
        prepare(Fickle(), 3, "openvino")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_missing_package_is_named_with_its_extra(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    needs = engines.PACKAGES[engine][0]
    with pytest.raises(ValueError, match=rf"needs the package {needs}: pip install 'cdinfer\["):
        check(engine)
    assert engines.installed() == ["torch"]


def test_installed_engines_are_those_whose_packages_are_there() -> None:
    there = [e for e in get_args(Engine) if all(map(find_spec, engines.PACKAGES[e]))]
    assert engines.installed() == there


def test_what_no_engine_does_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PACKAGES", dict.fromkeys(engines.PACKAGES, ()))
    with pytest.raises(ValueError, match="expected engine torch or onnx or openvino, got tvm"):
        prepare(*build("classifier"), "tvm")
    with pytest.raises(ValueError, match="expected precision fp32 or bf16, got int8"):
        prepare(*build("classifier"), "torch", "int8")
    with pytest.raises(ValueError, match="--engine onnx computes in fp32, got bf16"):
        prepare(*build("classifier"), "onnx", "bf16")
    elsewhere = nn.Conv2d(3, 3, 1, device="meta")
    with pytest.raises(ValueError, match="--engine openvino runs on CPUs: give --device cpu"):
        prepare(elsewhere, 3, "openvino")


def one_by_one(engine: Engine) -> object:
    there = engine in engines.installed()
    return pytest.param(engine, marks=pytest.mark.skipif(not there, reason="not installed"))


@pytest.mark.parametrize("engine", ["torch", one_by_one("openvino")])
def test_runs_answer_alike_in_every_engine(
    engine: Engine, classifier_run: Path, tiny_codec: Path, files: list[Path], tmp_path: Path
) -> None:
    for folder in (classifier_run, make_segmenter_run(tmp_path / "seg", tiny_codec)):
        usual = list(load_run(folder).predict(files))
        found = list(load_run(folder, engine=engine).predict(files))
        half = list(load_run(folder, engine=engine, precision="bf16").predict(files))
        for one, same, near in zip(usual, found, half, strict=True):
            assert one.file == same.file == near.file
            if isinstance(one, Prediction):
                assert abs(one.probability - same.probability) < 1e-4
                assert abs(one.probability - near.probability) < 0.05
            else:
                assert (one.mask == same.mask).mean() > 0.99
                assert one.mask.shape == near.mask.shape
