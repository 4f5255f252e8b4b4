"""Memory and time of an export and of an epoch, for few and for many pictures.

    python tools/measure_growth.py [--counts 1000 20000] [--codec cae-lite] [--bpp 0.0983]

Pictures are crops of 64 x 64 pixels out of those that come with scikit-image, as PNG files in two
class folders. Export and reading (one epoch of the training split, batches of 64, whole latents)
run in a process each. Peaks are the most resident bytes over what the process had after its
imports and loading the codec. ``--folder`` keeps pictures and sets.

What may grow: the list of inputs and the index, and while a shard is written its bitstreams (8192
at most). The last column tells how many bytes a picture more costs.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import skimage.data
import torch
from PIL import Image

from cdinfer.__main__ import main as cdinfer
from cdinfer.codecs import load_codec
from cdinfer.data.module import DataModule

SIDE, BATCH = 64, 64


class Cost(NamedTuple):
    """Seconds, and the most resident bytes over the baseline."""

    seconds: float
    peak: int


def write_pictures(folder: Path, count: int) -> None:
    """Write ``count`` pictures to ``folder/{a,b}``; those that are there stay."""
    sources = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:06d}.png"
        if path.exists():
            continue
        source = sources[number % len(sources)]
        top, left = np.random.default_rng(number).integers(0, np.array(source.shape[:2]) - SIDE)
        crop = source[top : top + SIDE, left : left + SIDE]
        Image.fromarray(crop).save(path, compress_level=1)


def export(source: Path, target: Path, codec: str, bpp: float) -> None:
    """Export a folder."""
    args = ["export", str(source), str(target), "--codec", codec, "--bpp", str(bpp)]
    if cdinfer([*args, "--json"]):
        raise RuntimeError("the export failed")


def read_epoch(folder: Path) -> None:
    """Read all training samples once."""
    data = DataModule(str(folder), batch_size=BATCH)
    loader = data.train_dataloader()
    for batch in loader:
        assert batch["planes"]["y"].dtype == torch.uint8


def measure(work: Callable[..., None], *args: object, codec: str, bpp: float) -> Cost:
    """Run ``work`` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, work, args, codec, bpp))
    child.start()
    theirs.close()
    try:
        cost: Cost = ours.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} died") from None
    child.join()
    return cost


def _run(
    out: Connection, work: Callable[..., None], args: tuple[object, ...], codec: str, bpp: float
) -> None:
    torch.set_num_threads(1)
    own = load_codec(codec, bpp)
    own.unpack(own.compress(torch.zeros(16, 3, SIDE, SIDE)))
    base, start = _peak(), time.perf_counter()
    work(*args)
    out.send(Cost(time.perf_counter() - start, _peak() - base))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def row(work: str, costs: list[Cost], counts: list[int]) -> str:
    """Return a line of the table."""
    cells = [f"{cost.seconds:.1f} s, {cost.peak / 2**20:.1f} MiB" for cost in costs]
    each = (costs[-1].peak - costs[0].peak) / max(1, counts[-1] - counts[0])
    return f"| {work} | {' | '.join(cells)} | {each:.0f} |"


def main() -> None:
    """Print the table."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--counts", type=int, nargs="+", default=[1000, 20_000])
    parse.add_argument("--codec", default="cae-lite")
    parse.add_argument("--bpp", type=float, default=0.0983)
    parse.add_argument("--folder", type=Path)
    args = parse.parse_args()
    codec = {"codec": args.codec, "bpp": args.bpp}
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary)
        exports, epochs, sizes = [], [], []
        for count in args.counts:
            source, target = root / f"pictures-{count}", root / f"set-{count}"
            write_pictures(source, count)
            exports.append(measure(export, source, target, args.codec, args.bpp, **codec))
            epochs.append(measure(read_epoch, target, **codec))
            sizes.append((target / "index.json").stat().st_size)
    print(f"| | {' | '.join(f'{count:,} pictures' for count in args.counts)} | bytes each |")
    print(f"|---|{'---:|' * (len(args.counts) + 1)}")
    print(row("export", exports, args.counts))
    print(row("an epoch", epochs, args.counts))
    cells = " | ".join(f"{size:,} bytes" for size in sizes)
    each = (sizes[-1] - sizes[0]) / max(1, args.counts[-1] - args.counts[0])
    print(f"| index.json | {cells} | {each:.1f} |")


if __name__ == "__main__":
    main()
