"""Training steps: files in memory, 32 at once, to updated weights, in one thread.

    ours    latents -> cResNet-39
    peers   decoded pictures, JPEG -> ResNet-50

A step decodes its files, then goes forward, backward and down the gradient (SGD with momentum), as
``cdinfer train`` does in the same precision. A case tells how many times the multiply-accumulates
of ours the peer needs, a network's counting three times: forward once and backward twice. The ideal
is the peer's time over that number.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdinfer.codecs.stored import read_codec
from cdinfer.models import count_macs
from cdinfer.runs.engines import Precision, prepare
from cdinfer.studies.bench import fronts, jpeg
from cdinfer.studies.bench.fronts import Front
from cdinfer.studies.bench.pictures import Pictures, crop_side
from cdinfer.studies.bench.rows import timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.networks import build_classifier
from cdinfer.studies.records import Row

BENCH = "steps"
PICTURES = 32
CODECS = (("cae", 0.33),)

OURS, PEER = "cResNet-39", "ResNet-50"

#: Widths of both networks.
WIDTHS = (1.0, 0.25)

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

CLASSES = 1000


def run(
    pictures: Pictures,
    codecs: Sequence[Path],
    rounds: int,
    progress: Progress,
    widths: Sequence[float] = WIDTHS,
) -> list[Row]:
    """Return milliseconds a picture of a step, ours against each peer.

    Args:
        pictures: of a batch.
        codecs: folders of the codecs of ours.
        rounds: steps of each.
        progress: called with what is being done.
        widths: factors on the channels of the networks.
    """
    side = crop_side(pictures)
    *_, from_jpeg = fronts.from_jpeg([jpeg.encode(p) for p in pictures.pixels], (side, side))
    rows = []
    for folder in codecs:
        codec = read_codec(folder)
        progress(f"{BENCH}: encoding pictures")
        files = fronts.write_cdi(codec, pictures.pixels)
        latents = fronts.from_latents(codec, files, (side, side))
        there = [latents, fronts.decoded(codec, latents), from_jpeg]
        for width in widths:
            for precision in PRECISIONS:
                what = f"{precision}, width {width:g}, batch {len(files)}, {codec.name} "
                what += f"{codec.bpp:g}, "
                rows += _rows(what, there, width, precision, rounds, progress)
    return rows


def make_step(
    front: Front, net: nn.Module, precision: Precision
) -> Callable[[Sequence[Any]], None]:
    """Return what takes files to a step of ``net``."""
    net.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    decode = None
    if front.decoder is not None:
        decode = prepare(front.decoder, front.shape[0], "torch", precision)

    def step(files: Sequence[Any]) -> None:
        x = front.read(files)
        x = x if decode is None else decode(x).clone()  # decoded in inference mode
        label = torch.zeros(len(files), dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _rows(
    what: str,
    there: Sequence[Front],
    width: float,
    precision: Precision,
    rounds: int,
    progress: Progress,
) -> list[Row]:
    ours, *_ = there
    works, macs = {}, {}
    for front in there:
        net = build_classifier(
            OURS if front is ours else PEER, (front.shape[0], 8), CLASSES, width=width
        )
        work = partial(make_step(front, net, precision), front.files)
        works[front.name] = Work(len(front.files), work)
        macs[front.name] = front.macs + 3 * count_macs(net, (1, *front.sees))
    times = interleave(works, rounds, lambda title: progress(f"{BENCH}: {what}{title}"))
    rows, mine = [], times[ours.name].cpu
    for peer in there[1:]:
        theirs, share = times[peer.name].cpu, macs[peer.name] / macs[ours.name]
        case = f"{what}{OURS} on {ours.name} vs {PEER} on {peer.name} ({share:.2f}x the MACs)"
        ideal = [seconds / share for seconds in theirs]
        rows.append(timed(BENCH, case, "ms/picture", mine, theirs, ideal))
    return rows
