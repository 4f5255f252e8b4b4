"""What everything costs to run: multiply-accumulates, parameters, milliseconds; and when it pays.

    parts        every encoder, decoder, trunk and head by itself
    paths        from stored bytes to an answer, part by part:
                     bits --> latents --> network                    (never pixels)
                     bits --> latents --> decoder --> network        (decode first)
                     JPEG --> pixels  --> network                    (the original)
    break_even   how often a picture must be looked at before one encoding and K latent networks
                 cost less than K times JPEG and the network on pixels

field          of a row
table          parts, paths or break_even
task           cls or seg; of parts also codec
name           of a part, or of a path
gmac           multiply-accumulates in thousand millions, as `count_macs` counts them; 0 for
               entropy decoding and JPEG, which multiply nothing worth counting
mparam         parameters in millions
head_gmac      of parts: the head's share of gmac; null of what has no head
head_mparam    and of mparam
ms             CPU time of one thread, median of the rounds; null without rounds
encoder, network, rival
passes_gmac    of break_even: least K by multiply-accumulates; null if it never pays
passes_ms      and by time
"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cdinfer.codecs import CAE
from cdinfer.codecs.base import pad_to_multiple
from cdinfer.codecs.stored import CODECS, read_codec
from cdinfer.codecs.zoo import find_codec
from cdinfer.data.images import to_tensor
from cdinfer.models import Classifier, Segmenter, count_macs
from cdinfer.studies.bench import jpeg
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.clock import one_thread
from cdinfer.studies.networks import (
    CLASSIFIERS,
    SEGMENTERS,
    build_classifier,
    build_segmenter,
    reads_latents,
)
from cdinfer.studies.records import Row

#: Classes of the segmentation networks: those of VOC.
MASK_CLASSES = 21


class Part(NamedTuple):
    """Something that runs: its shape of input, and a call of it for the clock."""

    task: str
    name: str
    net: nn.Module | None
    shape: tuple[int, ...]
    call: Callable[[], object]


def run(
    size: tuple[int, int] = (224, 224),
    classes: int = 1000,
    codecs: tuple[str, ...] = ("cae", "cae-lite"),
    bpp: float = 0.33,
    rounds: int = 3,
    progress: Progress = lambda title: None,
) -> list[Row]:
    """Return the rows of all three tables.

    Args:
        size: height and width of the picture in pixels.
        classes: outputs of the networks.
        codecs: names or folders; their latents have as many channels, and one stride.
        bpp: nominal rate of those given by name.
        rounds: how often each part is timed; 0 only counts.
        progress: called before each call that is timed.

    Raises:
        ValueError: if there is no such trained codec, or their latents differ in shape.
    """
    loaded = {
        name: read_codec(find_codec(name, bpp if name in CODECS else None)) for name in codecs
    }
    shapes = {name: (codec.channels, codec.stride) for name, codec in loaded.items()}
    if len(set(shapes.values())) != 1:
        said = ", ".join(f"{name} {c} at stride {s}" for name, (c, s) in shapes.items())
        raise ValueError(f"expected codecs of as many channels and one stride, got {said}")
    parts = _parts(size, classes, loaded, rounds)
    works = {f"{part.task} {part.name}": Work(1, part.call) for part in parts if rounds}
    with one_thread(), torch.inference_mode():
        times = [each.cpu for each in interleave(works, rounds, progress).values()]
    rows = [_row(part, cpu) for part, cpu in zip(parts, times or [[]] * len(parts), strict=True)]
    by_name = {(row["task"], row["name"]): row for row in rows}
    paths = _paths(by_name, list(loaded))
    return rows + paths + _break_even(by_name, paths, list(loaded))


def _parts(size: tuple[int, int], classes: int, codecs: dict[str, CAE], rounds: int) -> list[Part]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
    picture = Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)
    x = to_tensor(np.asarray(picture))[None]
    file = jpeg.encode(np.asarray(picture))
    parts = [Part("codec", "JPEG decoding", None, (), partial(_read_jpeg, file))]
    first = next(iter(codecs.values()))
    y = first.encode(x).y
    for name, codec in codecs.items():
        files, padded = codec.compress(x), tuple(pad_to_multiple(x, codec.stride).shape)
        parts += [
            Part("codec", f"{name} encoder", codec.g_a, padded, partial(codec.encode, x)),
            Part("codec", f"{name} entropy decoding", None, (), partial(codec.unpack, files)),
            Part("codec", f"{name} decoder", codec.g_s, tuple(y.shape), partial(codec.decode, y)),
        ]
    shape = first.channels, first.stride
    with torch.device("cpu" if rounds else "meta"):  # counting needs no weights
        nets: list[tuple[str, str, Classifier | Segmenter]] = [
            *(("cls", name, build_classifier(name, shape, classes)) for name in CLASSIFIERS),
            *(("seg", name, build_segmenter(name, shape, MASK_CLASSES)) for name in SEGMENTERS),
        ]
    for task, name, net in nets:
        given = y if reads_latents(name) else x
        net.to(memory_format=torch.channels_last)
        parts.append(Part(task, name, net, tuple(given.shape), partial(net, given)))
    return parts


def _read_jpeg(data: bytes) -> Tensor:
    return to_tensor(jpeg.as_array(jpeg.with_pillow(data)))


def _row(part: Part, seconds: list[float]) -> Row:
    gmac, mparam = (0.0, 0.0) if part.net is None else _count(part.net, part.shape)
    head_gmac = head_mparam = None
    if isinstance(part.net, Classifier):
        head_gmac, head_mparam = _count(part.net.fc, (1, part.net.fc.in_features))
    elif isinstance(part.net, Segmenter):
        trunk = part.net.trunk
        sides = (-(-side // trunk.reduction) for side in part.shape[2:])
        features = (1, trunk.out_channels, *sides)
        head_gmac, head_mparam = _count(part.net.head, features, part.shape)
    return {
        "table": "parts",
        "task": part.task,
        "name": part.name,
        "gmac": gmac,
        "mparam": mparam,
        "head_gmac": head_gmac,
        "head_mparam": head_mparam,
        "ms": 1e3 * statistics.median(seconds) if seconds else None,
    }


def _count(net: nn.Module, *shapes: tuple[int, ...]) -> tuple[float, float]:
    """Return thousand millions of MACs and millions of parameters."""
    return count_macs(net, *shapes) / 1e9, sum(p.numel() for p in net.parameters()) / 1e6


def _paths(parts: dict[tuple[str, str], Row], codecs: list[str]) -> list[Row]:
    """Return what an answer costs from each kind of stored bytes."""
    bits = parts["codec", f"{codecs[0]} entropy decoding"]
    decoder = parts["codec", f"{codecs[0]} decoder"]
    jpeg = parts["codec", "JPEG decoding"]
    rows = []
    for (task, name), row in parts.items():
        if task == "codec":
            continue
        if name.startswith("cResNet"):
            rows.append(_sum(task, f"bits + {name}", bits, row))
        else:
            rows.append(_sum(task, f"bits + decoder + {name}", bits, decoder, row))
            rows.append(_sum(task, f"JPEG + {name}", jpeg, row))
    return rows


def _sum(task: str, name: str, *parts: Row) -> Row:
    times = [part["ms"] for part in parts]
    return {
        "table": "paths",
        "task": task,
        "name": name,
        "gmac": sum(part["gmac"] for part in parts),
        "mparam": sum(part["mparam"] for part in parts),
        "ms": None if None in times else sum(times),
    }


def _break_even(
    parts: dict[tuple[str, str], Row], paths: list[Row], codecs: list[str]
) -> list[Row]:
    rivals = {
        "cls": "JPEG + ResNet-50",
        "seg": "JPEG + ResNet-50-d, ASPP",
    }
    rows = []
    for codec in codecs:
        encoder = parts["codec", f"{codec} encoder"]
        for path in paths:
            if not path["name"].startswith("bits + cResNet"):
                continue
            rival = next(r for r in paths if r["name"] == rivals[path["task"]])
            rows.append(
                {
                    "table": "break_even",
                    "task": path["task"],
                    "encoder": codec,
                    "network": path["name"].removeprefix("bits + "),
                    "rival": rival["name"],
                    "passes_gmac": passes(encoder["gmac"], path["gmac"], rival["gmac"]),
                    "passes_ms": passes(encoder["ms"], path["ms"], rival["ms"]),
                }
            )
    return rows


def passes(once: float | None, each: float | None, rival: float | None) -> int | None:
    """Return the least K with ``once + K * each < K * rival``; None if there is none.

    Example:
        >>> passes(3.5, 3.1, 4.1)
        4
        >>> passes(3.5, 4.2, 4.1)
    """
    if once is None or each is None or rival is None or each >= rival:
        return None
    return math.floor(once / (rival - each)) + 1
