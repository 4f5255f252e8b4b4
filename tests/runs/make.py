"""Run folders of untrained networks, made by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdinfer import models
from cdinfer.codecs import read_codec
from cdinfer.codecs.stored import copy_codec

#: Names and colours of three classes.
CLASSES = ["road", "sky", "tree"]
PALETTE = [[128, 64, 128], [70, 130, 180], [107, 142, 35]]

NET = {"class_path": "cdinfer.models.CResNet", "init_args": {"width": 0.125, "output_stride": 16}}
PIXEL_NET = {"class_path": "cdinfer.models.ResNet", "init_args": NET["init_args"]}
HEAD = {"class_path": "cdinfer.models.LightDecoder", "init_args": {"width": 0.125}}


def make_segmenter_run(
    folder: Path, codec_folder: Path, reads: str = "latents", **changes: Any
) -> Path:
    """Write the run of a segmenter as ``cdinfer train`` does, but for its weights."""
    codec = read_codec(codec_folder)
    about = {
        "task": "seg",
        "classes": CLASSES,
        "palette": PALETTE,
        "ignore_index": 255,
        "stream": None if reads == "original" else f"{codec.stream:08x}",
        "preprocessing": {"resize": None, "crop": 32, "input": reads},
        "net": NET if reads == "latents" else PIXEL_NET,
        "head": HEAD,
    } | changes
    shape = (codec.channels, codec.stride) if reads == "latents" else (3, 1)
    net, head = _make(about["net"]), _make(about["head"])
    torch.manual_seed(0)
    trunk = net(channels=shape[0], stride=shape[1], sigma=False)
    network = models.Segmenter(trunk, head, *shape, len(about["classes"])).eval()
    _calibrate(network, torch.randn(4, shape[0], 24, 24))
    write_run(folder, about, network, None if reads == "original" else codec_folder)
    return folder


def write_run(folder: Path, about: dict[str, Any], net: nn.Module, codec: Path | None) -> None:
    """Write ``run.json``, checkpoint and codec."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(about))
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "best.ckpt")
    if codec is not None:
        copy_codec(codec, folder / "codec")


def change(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit ``run.json``."""
    about = json.loads((run / "run.json").read_text())
    edit(about)
    (run / "run.json").write_text(json.dumps(about))


def _make(spec: dict[str, Any]) -> Callable[..., Any]:
    recipe = getattr(models, spec["class_path"].rpartition(".")[2])
    return lambda **shape: recipe(**shape, **spec["init_args"])


def _calibrate(network: nn.Module, x: torch.Tensor) -> None:
    """Give batch normalisation the statistics of some input, so that all classes occur."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        network(x)
    network.eval()
