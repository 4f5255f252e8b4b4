"""``cdinfer bench [NAME...]``: speed and size against the peers, as ratios in one run.

    entropy    symbols <-> bytes: ours, constriction, CompressAI, zstd
    loading    shards -> training batches, against webdataset and JPEG decoders
    export     pictures -> shards, over the encoder's own forward pass
    latency    one picture: bytes -> symbols -> latents -> picture, and back, against JPEG
    inference  bytes -> class: latents, against decoded pictures, JPEG and CompressAI -> ResNet-50
    masks      bytes -> mask: latents, against decoded pictures and JPEG -> ResNet-50-d
    steps      training steps of 32 pictures, against decoded pictures and JPEG
    memory     the most that processes hold to classify, segment and train
    startup    whole processes: cdinfer --help, cdinfer encode one.jpg
    overhead   bytes of a set that are no payload
    gpu        training and inference steps, and the CPU cores that feed them (needs CUDA)

What is compared runs in turns, in one thread; figures are medians over the rounds. Each bench is a
table, or with ``--json`` one object a line:

field   meaning
bench   its name
case    what is measured, and against what; it says so if the peer is not installed
ours    a time, a rate, a size, ...
peer    the same of the peer; null without one
unit    of both; rates end in /s
ratio   how many times as good ours is: peer/ours, of rates ours/peer, taken within each round;
        null without a peer
ideal   the least ours could be (of rates the most): what the case itself needs, whoever does it;
        of inference, masks and steps: ours if it were as many times faster than the peer as it has
        fewer multiply-accumulates, which the case tells

Peers come with ``pip install 'cdinfer[bench]'``, engines with ``'cdinfer[onnx,openvino]'``.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cdinfer.__main__ import unknown
from cdinfer.cli.files import add_codec_flag
from cdinfer.cli.progress import status

NAMES = (
    "entropy", "loading", "export", "latency", "inference", "masks", "steps", "memory", "startup",
    "overhead", "gpu",
)  # fmt: skip

#: Benches of networks in several engines.
ENGINES = ("inference", "masks")

#: Rounds of which medians are taken.
ROUNDS = 7


def main(argv: list[str]) -> int:
    """Run benches and return the exit status."""
    args = parser().parse_args(argv)
    names = args.name or list(NAMES)
    for name in names:
        if name not in NAMES:
            raise unknown("bench", name, NAMES)
    for flag in ("rounds", "pictures"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ValueError(f"expected --{flag} of at least 1, got {value}")
    names = _without_gpu(names, asked="gpu" in args.name)
    if args.resident and "gpu" not in names:
        raise ValueError("--resident says where the bench gpu keeps symbols: give it with gpu")
    if args.engine and not set(names) & set(ENGINES):
        raise ValueError(f"--engine says what computes: give it with {' or '.join(ENGINES)}")
    from cdinfer.codecs.zoo import find_codec
    from cdinfer.runs.engines import check
    from cdinfer.studies.bench.rows import table
    from cdinfer.studies.clock import one_thread

    if args.engine:
        check(args.engine)

    given = find_codec(args.codec or "cae", args.bpp) if args.codec or args.bpp else None
    with one_thread(), status() as progress:
        for name in dict.fromkeys(names):
            rows = _run(name, args, given, progress)
            if args.json:
                print("\n".join(json.dumps(row) for row in rows), flush=True)
            else:
                print(f"{name}\n\n{table(rows)}\n", flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer bench",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(__doc__ or "").strip(),
        epilog="example: cdinfer bench entropy loading --data photos/",
    )
    parse.add_argument("name", nargs="*", metavar="NAME", help="which (default: all)")
    parse.add_argument("--json", action="store_true", help="print one JSON object a line")
    parse.add_argument(
        "--data", type=Path, metavar="FOLDER",
        help="pictures, whose folders are classes (default: windows of scikit-image's photographs)",
    )  # fmt: skip
    parse.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"({ROUNDS})")
    parse.add_argument(
        "--pictures", type=int, metavar="N", help="how many (default: each bench has its own)"
    )
    add_codec_flag(parse, "each bench has its own")
    parse.add_argument("--bpp", type=float, metavar="R", help="one rate, of cae or --codec")
    parse.add_argument(
        "--resident", choices=("ram", "gpu"),
        help="gpu: also with symbols that are decoded once and kept there",
    )  # fmt: skip
    parse.add_argument(
        "--engine", choices=("torch", "onnx", "openvino"),
        help="inference, masks: only in this one (default: in each that is installed)",
    )  # fmt: skip
    return parse


def _without_gpu(names: list[str], asked: bool) -> list[str]:
    """Return the benches that can run here; say so, or refuse, if that leaves gpu out."""
    if "gpu" not in names:
        return names
    from cdinfer.studies.bench.gpu import check_device

    try:
        check_device()
    except ValueError as error:
        if asked:
            raise
        print(f"cdinfer bench: left out gpu: {error}", file=sys.stderr)
        return [name for name in names if name != "gpu"]
    return names


def _run(
    name: str, args: argparse.Namespace, given: Path | None, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    from cdinfer.codecs.zoo import find_codec
    from cdinfer.studies.bench.pictures import read_pictures

    bench = import_module(f"cdinfer.studies.bench.{name}")
    codecs = [given] if given else [find_codec(*codec) for codec in bench.CODECS]
    progress(f"{name}: reading pictures")
    pictures = read_pictures(args.data, args.pictures or bench.PICTURES)
    options = {}
    if name == "gpu":
        options["resident"] = args.resident
    elif name in ENGINES and args.engine:
        options["engines"] = [args.engine]
    rows: list[dict[str, Any]] = bench.run(pictures, codecs, args.rounds, progress, **options)
    return rows
