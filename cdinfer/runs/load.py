"""Run folder -> network ready to predict. Nothing in the folder is trusted."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cdinfer import models
from cdinfer.codecs.base import check_device
from cdinfer.codecs.stored import read_codec
from cdinfer.data.voc import MAX_CLASSES, voc_palette
from cdinfer.models import Classifier, HeadRecipe, NetRecipe, Segmenter, Trunk
from cdinfer.runs.classify import ClassifierRun
from cdinfer.runs.engines import Engine, Precision, check
from cdinfer.runs.folder import find_run, read_about, read_weights
from cdinfer.runs.inputs import Inputs
from cdinfer.runs.segment import SegmenterRun

Run = ClassifierRun | SegmenterRun

Net = TypeVar("Net", bound=nn.Module)

#: Most characters of a network's description: options are numbers and words.
MAX_SPEC = 4096


def load_run(
    run: str | Path,
    device: str = "cpu",
    net: NetRecipe | None = None,
    head: HeadRecipe | None = None,
    engine: Engine = "torch",
    precision: Precision = "fp32",
) -> Run:
    """Return the classifier or segmenter trained in ``run``.

    Args:
        run: the run's folder, or its parent (newest version).
        device: where to run it.
        net: the network's class, if it is not one of ``cdinfer.models``.
        head: that of a segmenter's head, likewise.
        engine: what computes the network, see :mod:`cdinfer.runs.engines`.
        precision: of it.

    Raises:
        ValueError: if the run is missing, damaged, unfinished, or another task's, or there is no
            such device or engine.
    """
    check_device(device)
    check(engine, precision)
    folder = find_run(run)
    about = read_about(folder)
    if about["task"] not in ("cls", "seg"):
        raise ValueError(
            f"{folder} trained a {about['task']}, expected a classifier (--task cls) or a "
            "segmenter (--task seg)"
        )
    try:
        return _load(folder, about, device, net, head, engine, precision)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot use run {folder}: {reason}") from error
    except (KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"damaged run {folder}: {error!r}; train again") from error


def _load(
    folder: Path,
    about: dict[str, Any],
    device: str,
    net: NetRecipe | None,
    head: HeadRecipe | None,
    engine: Engine,
    precision: Precision,
) -> Run:
    preprocessing, classes = about["preprocessing"], [str(name) for name in about["classes"]]
    reads, resize = preprocessing["input"], _read_side(preprocessing["resize"])
    crop = _read_side(preprocessing["crop"])
    if reads not in ("latents", "decoded", "original"):
        raise ValueError(f"unknown input {reads!r}")
    codec = None if reads == "original" else read_codec(folder / "codec")
    if codec is not None and f"{codec.stream:08x}" != about["stream"]:
        raise ValueError(f"its codec is not that of stream {about['stream']}")
    channels, stride = 3, 1
    if codec is not None and reads == "latents":
        channels, stride = codec.channels, codec.stride
    recipe = _find_recipe(about["net"], net, "net")
    weights = read_weights(folder)

    def build_trunk() -> Trunk:
        trunk: Trunk = recipe(channels=channels, stride=stride, sigma=False)
        return trunk

    if about["task"] == "cls":
        classifier = _fill(lambda: Classifier(build_trunk(), len(classes)), weights)
        inputs = Inputs(codec, reads, resize, crop, device)
        return ClassifierRun(classes, inputs, classifier, engine, precision)
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"expected at most {MAX_CLASSES} classes of pixels, got {len(classes)}")
    on_top = _find_recipe(about["head"], head, "head")
    palette = _read_palette(about["palette"], len(classes))
    segmenter = _fill(
        lambda: Segmenter(build_trunk(), on_top, channels, stride, len(classes)), weights
    )
    inputs = Inputs(codec, reads, resize, None, device)
    return SegmenterRun(classes, palette, inputs, segmenter, engine, precision)


def _fill(build: Callable[[], Net], weights: dict[str, Tensor]) -> Net:
    """Return a network with these weights, once they are known to fit it.

    Raises:
        ValueError: if they do not.
    """
    with torch.device("meta"):  # shapes are compared before anything is allocated
        skeleton = build().state_dict()
    if {k: v.shape for k, v in skeleton.items()} != {k: v.shape for k, v in weights.items()}:
        raise ValueError("the checkpoint does not fit the network of run.json")
    net = build()
    net.load_state_dict(weights)
    return net


def _find_recipe(
    spec: dict[str, Any], given: NetRecipe | HeadRecipe | None, argument: str
) -> Callable[..., Any]:
    """Return a recipe with its options; a run cannot make us import anything but our own.

    Args:
        spec: ``class_path`` and ``init_args``.
        given: the class, if it is not one of ours.
        argument: of ``load_run``, which takes such a class.
    """
    if len(json.dumps(spec)) > MAX_SPEC:
        raise ValueError(f"its {argument} has more than {MAX_SPEC} characters of options")
    if given is not None:
        return partial(given, **spec.get("init_args", {}))
    class_path = spec["class_path"]
    module, _, name = class_path.rpartition(".")
    if name not in models.__all__ or not module.startswith("cdinfer.models"):
        raise ValueError(
            f"the run's {argument} {class_path} is not one of cdinfer.models: "
            f"use load_run(RUN, {argument}=YourOwn) from Python"
        )
    return partial(getattr(models, name), **spec.get("init_args", {}))


def _read_palette(colours: object, num_classes: int) -> list[list[int]]:
    """Return a colour for each class; where there are none, VOC's."""
    if colours == []:
        return voc_palette(num_classes)
    if not isinstance(colours, list) or len(colours) != num_classes:
        raise ValueError(f"expected a colour for each of {num_classes} classes")
    for colour in colours:
        values = colour if isinstance(colour, list) else []
        if len(values) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in values):
            raise ValueError(f"expected colours as [255, 0, 0], got {str(colour)[:80]}")
    return colours


def _read_side(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"expected a number of pixels, got {value!r}")
    return value
