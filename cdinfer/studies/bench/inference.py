"""Bytes -> class: files in memory to the most likely class, at 224x224, in one thread.

    ours    latents -> cResNet-39, cResNet-51
    peers   decoded, JPEG or CompressAI's files -> ResNet-50, as `fronts` describes them

Networks are not trained, which takes as long. How engines are compared is told in `contest`.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cdinfer.codecs import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.runs.engines import Engine
from cdinfer.studies.bench import fronts, jpeg
from cdinfer.studies.bench.contest import Entry, compare, enter
from cdinfer.studies.bench.pictures import Pictures, crop_side
from cdinfer.studies.bench.timing import Progress
from cdinfer.studies.networks import build_classifier
from cdinfer.studies.records import Row

BENCH = "inference"
PICTURES = 16
CODECS = (("cae", 0.33),)

OURS, PEER = ("cResNet-39", "cResNet-51"), "ResNet-50"

#: Pictures a call.
BATCHES = (1, 16)

CLASSES = 1000


def run(
    pictures: Pictures,
    codecs: Sequence[Path],
    rounds: int,
    progress: Progress,
    engines: Sequence[Engine] | None = None,
    width: float = 1.0,
) -> list[Row]:
    """Return milliseconds a picture of each of ours against each peer, engine by engine.

    Args:
        pictures: in files of each kind.
        codecs: folders of the codecs of ours.
        rounds: how often each runs.
        progress: called with what is being done.
        engines: which; default: all that are installed.
        width: of all networks.
    """
    rows = []
    for folder in codecs:
        codec = read_codec(folder)
        progress(f"{BENCH}: encoding pictures")
        ours, peers = enter_all(codec, pictures, width)
        what = f"{codec.name} {codec.bpp:g}"
        rows += compare(BENCH, what, ours, peers, BATCHES, rounds, progress, engines)
    return rows


def enter_all(
    codec: CAE, pictures: Pictures, width: float = 1.0
) -> tuple[list[Entry], dict[str, Entry | None]]:
    """Return our entries, and those of the peers by name; ``None`` for what is not installed."""
    side = crop_side(pictures)
    size, pixels = (side, side), pictures.pixels
    latents = fronts.from_latents(codec, fronts.write_cdi(codec, pixels), size)
    jpegs = fronts.from_jpeg([jpeg.encode(picture) for picture in pixels], size)
    shape = codec.channels, codec.stride

    def classify(front: fronts.Front, network: str, net: nn.Module) -> Entry:
        return enter(front, network, net, lambda logits: logits.argmax(1))

    ours = [
        classify(latents, name, build_classifier(name, shape, CLASSES, width=width))
        for name in OURS
    ]
    net = build_classifier(PEER, shape, CLASSES, width=width)
    there = [fronts.decoded(codec, latents), *jpegs]
    there += filter(None, [fronts.from_compressai(pixels, size)])
    found = {front.name: classify(front, PEER, net) for front in there}
    return ours, {name: found.get(name) for name in fronts.PEERS}
