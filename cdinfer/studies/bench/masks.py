"""Bytes -> mask: a file in memory to the class of each of its pixels, in one thread.

    ours    latents -> our segmenter; latents -> the paper's, cResNet-51-d with ASPP
    peers   decoded pictures, JPEG -> the paper's ResNet-50-d with ASPP, output stride 8

Networks are not trained, which takes as long. How engines are compared is told in `contest`. All
enlarge their logits as our segmenters do; that is held against the usual way, too: enlarging planes
of logits, one a class, then the largest of each pixel, then bytes. Its ideal is a copy of the mask.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cdinfer.codecs import CAE
from cdinfer.codecs.classical import Picture
from cdinfer.codecs.stored import read_codec
from cdinfer.models import Segmenter
from cdinfer.runs.engines import Engine
from cdinfer.studies.bench import fronts, jpeg
from cdinfer.studies.bench.contest import Entry, compare, enter
from cdinfer.studies.bench.fronts import Front, Size
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.networks import OURS, build_segmenter
from cdinfer.studies.records import Row

BENCH = "masks"
PICTURES = 1
CODECS = (("cae", 0.33),)

NETWORKS, PEER = (OURS, "cResNet-51-d, ASPP"), "ResNet-50-d, ASPP"

#: Heights and widths of the pictures: CamVid's, and what VOC's fit into.
SIZES = ((360, 480), (512, 512))

CLASSES = 21


def run(
    pictures: Pictures,
    codecs: Sequence[Path],
    rounds: int,
    progress: Progress,
    engines: Sequence[Engine] | None = None,
    width: float = 1.0,
    sizes: Sequence[Size] = SIZES,
) -> list[Row]:
    """Return milliseconds a picture of each of ours against each peer, engine by engine.

    Args:
        pictures: of which the first is scaled to each size.
        codecs: folders of the codecs of ours.
        rounds: how often each runs.
        progress: called with what is being done.
        engines: which; default: all that are installed.
        width: of all networks.
        sizes: heights and widths, multiples of 8 pixels.
    """
    rows = []
    for folder in codecs:
        codec = read_codec(folder)
        for size in sizes:
            progress(f"{BENCH}: encoding a picture")
            ours, peers = enter_all(codec, scale(pictures.pixels[0], size), width)
            what = f"{codec.name} {codec.bpp:g}, {name(size)}"
            rows += compare(BENCH, what, ours, peers, (1,), rounds, progress, engines)
    return rows + [row for size in sizes for row in _enlarging(size, rounds, progress)]


def enter_all(
    codec: CAE, picture: Picture, width: float = 1.0
) -> tuple[list[Entry], dict[str, Entry | None]]:
    """Return our entries, and those of the peers by name."""
    size, shape = (picture.shape[0], picture.shape[1]), (codec.channels, codec.stride)

    def segment(front: Front, network: str) -> Entry:
        net = build_segmenter(network, shape, CLASSES, width)
        return enter(front, network, net, partial(net.choose, size=size))

    latents = fronts.from_latents(codec, fronts.write_cdi(codec, [picture]), size)
    *_, best = fronts.from_jpeg([jpeg.encode(picture)], size)
    peers = [segment(front, PEER) for front in (fronts.decoded(codec, latents), best)]
    return [segment(latents, network) for network in NETWORKS], {p.name: p for p in peers}


def scale(picture: Picture, size: Size) -> Picture:
    """Return a picture scaled to a height and width."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


def name(size: Size) -> str:
    """Return a size as people write it, width first.

    Example:
        >>> name((360, 480))
        '480x360'
    """
    return f"{size[1]}x{size[0]}"


def naive(logits: Tensor, size: Size) -> Tensor:
    """Return the mask of logits ``(B, K, h, w)`` as it is usually made: uint8 ``(B, H, W)``."""
    enlarged = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return enlarged.argmax(1).to(torch.uint8)


def _enlarging(size: Size, rounds: int, progress: Progress) -> list[Row]:
    net: Segmenter = build_segmenter(OURS, (8, 8), CLASSES, 0.1)
    logits = torch.rand(1, CLASSES, size[0] // net.head.stride, size[1] // net.head.stride)
    innermost, mask = logits.contiguous(memory_format=torch.channels_last), naive(logits, size)
    assert (net.choose(innermost, size) == mask).float().mean() > 0.999, "masks differ"
    works = {
        "ours": Work(1, partial(net.choose, innermost, size)),
        "peer": Work(1, partial(naive, logits, size)),
        "copy": Work(1, mask.clone),
    }
    times = interleave(works, rounds, lambda title: progress(f"{BENCH}: enlarging, {title}"))
    case = f"enlarging logits of {CLASSES} classes, {name(size)} vs planes, then argmax"
    return [timed(BENCH, case, "ms/picture", *(times[work].cpu for work in works))]
