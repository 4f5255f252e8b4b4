"""What computes a network's answers: torch, or an engine made for inference on CPUs.

    engine     package                               precision     converts
    torch      torch                                 fp32, bf16    nothing
    onnx       pip install 'cdinfer[onnx]'           fp32          torch.export --> ONNX in memory
    openvino   pip install 'cdinfer[openvino]'       fp32, bf16    a trace --> OpenVINO's graph

Converting takes seconds and is done once: what comes out takes any number of inputs of any size. It
is compared with torch, on an input of another size, since a network whose Python asks how large its
input is cannot be converted so.

OpenVINO's package tells its makers whenever it is imported, unless ``openvino_telemetry``, a
package of its own, is missing; here it is never found.
"""

import copy
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Engine = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16"]

#: Engine -> the packages it needs besides torch.
PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": (),
    "onnx": ("onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
}

#: Height and width of the input that is converted with, and of the one that is compared on.
EXAMPLE, OTHER = (64, 96), (39, 75)

#: Largest difference of two fp32 engines that passes, over the largest answer.
CLOSE = 2e-3

Call = Callable[[Tensor], Tensor]


def prepare(
    net: nn.Module, channels: int, engine: Engine = "torch", precision: Precision = "fp32"
) -> Call:
    """Return what computes ``net`` of one tensor ``(B, channels, h, w)``, for any B, h and w.

    Args:
        net: in eval mode, where it shall run; it stays what it is, but torch lays out its weights
            with channels innermost, which is faster in batches.
        channels: of its input.
        engine: what computes; all but torch run on CPUs only, in as many threads as torch has now.
        precision: ``bf16`` for convolutions and linear layers in bfloat16.

    Raises:
        ValueError: if the engine is not installed, or cannot run the network so.
    """
    check(engine, precision)
    if engine == "torch":
        return _with_torch(net, precision)
    if any(p.device.type != "cpu" for p in net.parameters()):
        raise ValueError(f"--engine {engine} runs on CPUs: give --device cpu")
    convert = _with_onnx if engine == "onnx" else _with_openvino
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about the insides of torch
            rng = torch.Generator().manual_seed(0)
            load = convert(net, torch.rand(2, channels, *EXAMPLE, generator=rng))
            call = load("fp32")
            _compare(net, call, torch.rand(1, channels, *OTHER, generator=rng))
            return call if precision == "fp32" else load(precision)
    except Exception as error:  # converters raise anything, on several lines
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--engine {engine} cannot run this network ({reason}): give --engine torch"
        ) from error


def check(engine: Engine, precision: Precision = "fp32") -> None:
    """Refuse an engine that is not there.

    Raises:
        ValueError: naming what to install, or to give instead.
    """
    for name, value, known in (
        ("engine", engine, get_args(Engine)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise ValueError(f"expected {name} {' or '.join(known)}, got {value}")
    for package in PACKAGES[engine]:
        if find_spec(package) is None:
            raise ValueError(
                f"--engine {engine} needs the package {package}: pip install 'cdinfer[{engine}]'"
            )
    if engine == "onnx" and precision != "fp32":
        raise ValueError(
            f"--engine onnx computes in fp32, got {precision}: give --engine torch or openvino"
        )


def installed() -> list[Engine]:
    """Return the engines that are there."""
    engines: tuple[Engine, ...] = get_args(Engine)
    return [engine for engine in engines if all(map(find_spec, PACKAGES[engine]))]


def _with_torch(net: nn.Module, precision: Precision) -> Call:
    half = precision == "bf16"
    if half:  # done once; autocast alone does it at every call, a tenth of the time of one input
        net = copy.deepcopy(net)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(torch.bfloat16)
    net.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def call(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            y: Tensor = net(x.contiguous(memory_format=torch.channels_last))
        return y.float()

    return call


def _compare(net: nn.Module, call: Call, x: Tensor) -> None:
    expected, got = net(x), call(x)
    if got.shape != expected.shape:
        raise ValueError(f"answers of {list(got.shape)} where torch has {list(expected.shape)}")
    difference = float((got - expected).abs().max() / expected.abs().max())
    if not difference <= CLOSE:
        raise ValueError(f"answers {difference:.2g} off torch's")


def _with_onnx(net: nn.Module, example: Tensor) -> Callable[[Precision], Call]:
    import onnxruntime

    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program: Any = torch.onnx.export(
        net, (example,), dynamo=True, dynamic_shapes=(free,), verbose=False
    )
    data = program.model_proto.SerializeToString()

    def load(precision: Precision) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised, too
        session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])

    return load


def _with_openvino(net: nn.Module, example: Tensor) -> Callable[[Precision], Call]:
    return partial(load_openvino, convert_to_openvino(net, example))


def convert_to_openvino(net: nn.Module, example: Tensor) -> Any:  # noqa: ANN401
    """Return an ``openvino.Model`` of ``net``, for inputs of any number and size.

    Args:
        net: in eval mode.
        example: an input.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    trace: Any = torch.jit.trace
    decoder = TorchScriptPythonDecoder(trace(net, example, check_trace=False))
    front = FrontEndManager().load_by_framework("pytorch")
    model = front.convert(front.load(decoder))  # from a decoder without a name it crashes
    model.reshape(openvino.PartialShape([-1, example.shape[1], -1, -1]))
    return model


def load_openvino(model: Any, precision: Precision) -> Call:  # noqa: ANN401
    """Return what computes an ``openvino.Model`` of one input and one output."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda x: torch.from_numpy(compiled(x.contiguous().numpy(), share_inputs=True)[0])
