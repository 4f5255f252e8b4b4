"""Networks of the shipped codecs against what the machine can do, in one thread.

    python tools/measure_speed.py [--rounds 7] [--tiles] [--flips FOLDER ...]

Encode and decode of a 768 x 512 picture at 0.33 bpp. The floor is what the multiply-accumulates of
the network take at the peak measured in the same round: the better of a 2048 x 2048 matrix product
and a 3x3 convolution of 128 channels. Times are CPU times of the process, medians over rounds;
ratios are taken within a round. ``--tiles`` times tile sizes on 768 x 512 and 3072 x 2048 pixels;
``--flips`` counts the symbols that bf16 changes in the pictures of each folder (every 20th if they
are more than 500); ``--rounds 0`` leaves the first table out.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cdinfer.codecs import CAE, load_codec
from cdinfer.codecs.cae import OPERATING_POINTS
from cdinfer.data.images import as_tensor, find_images, read_image
from cdinfer.models import count_macs

NAMES = ("cae", "cae-lite")
PRECISIONS = ("fp32", "bf16")
HEIGHT, WIDTH = 512, 768


def milliseconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def peaks() -> Callable[[str], float]:
    """Return a function from precision to GFLOP/s, measured at each call."""
    side, shape = 2048, (1, 128, HEIGHT // 8, WIDTH // 8)
    matrix, x = torch.rand(side, side), torch.rand(shape)
    layer = nn.Conv2d(128, 128, 3, padding=1)
    flop = {"matrix": 2 * side**3, "layer": 2 * count_macs(layer, shape)}
    parts = {}
    for precision, dtype in zip(PRECISIONS, (torch.float32, torch.bfloat16), strict=True):
        conv = copy.deepcopy(layer).to(dtype=dtype, memory_format=torch.channels_last)
        parts[precision] = (matrix.to(dtype), conv, x.to(dtype=dtype))

    def peak(precision: str) -> float:
        a, conv, x = parts[precision]
        x = x.contiguous(memory_format=torch.channels_last)
        times = {"matrix": milliseconds(lambda: a @ a), "layer": milliseconds(lambda: conv(x))}
        return max(flop[name] / times[name] / 1e6 for name in times)

    return peak


def shipped(name: str, bpp: float = 0.33) -> CAE:
    """Return a shipped codec."""
    codec = load_codec(name, bpp)
    assert isinstance(codec, CAE)
    return codec


def speed(rounds: int) -> None:
    """Print the table of networks, and how much faster the light encoder is."""
    peak, x = peaks(), torch.rand(1, 3, HEIGHT, WIDTH)
    cases: dict[tuple[str, str], tuple[Callable[[], object], float]] = {}
    codecs = {name: shipped(name) for name in NAMES}
    y = codecs["cae"].encode(x).y
    for name, codec in codecs.items():
        gmacs = count_macs(codec.g_a, tuple(x.shape)) / 1e9
        cases[f"encode, {name}", "network"] = (lambda c=codec: c._analysis(x), gmacs)
        cases[f"encode, {name}", "file"] = (lambda c=codec: c.compress(x), 0.0)
    median, codec = statistics.median, codecs["cae"]
    (file,) = codec.compress(x)
    cases["decode", "network"] = (lambda: codec.decode(y), count_macs(codec.g_s, y.shape) / 1e9)
    cases["decode", "file"] = (lambda: codec.render([file]), 0.0)
    rows: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
    for number in range(rounds + 1):
        for precision in PRECISIONS:
            for codec in codecs.values():
                codec.precision = precision
            for (case, what), (work, gmacs) in cases.items():
                here = peak(precision)
                row = (milliseconds(work), 2e3 * gmacs / here, here)
                if number:  # the first round warms up
                    rows.setdefault((case, precision, what), []).append(row)
    print(
        "| network, 768x512, one thread | precision | GMAC | ms | floor, ms | over the floor ",
        end="",
    )
    print("| peak, GFLOP/s | with bytes, ms |\n|---|---|---|---|---|---|---|---|")
    for (case, precision, what), measured in rows.items():
        if what == "network":
            times, floors, heights = map(list, zip(*measured, strict=True))
            ratio = median([t / f for t, f in zip(times, floors, strict=True)])
            whole = median([row[0] for row in rows[case, precision, "file"]])
            gmacs = f"{cases[case, what][1]:.2f} | {median(times):.0f} | {median(floors):.0f}"
            print(f"| {case} | {precision} | {gmacs} | {ratio:.2f}x ", end="")
            print(f"| {median(heights):.0f} | {whole:.0f} |")
    print()
    for precision in PRECISIONS:
        for what, name in (("network", "networks"), ("file", "pictures to bytes")):
            pair = zip(*(rows[f"encode, {n}", precision, what] for n in NAMES), strict=True)
            factor = median([full[0] / lite[0] for full, lite in pair])
            print(f"cae-lite encodes {factor:.1f}x as fast as cae: {name}, {precision}")


def tile_sizes(rounds: int) -> None:
    """Print encode and decode times of tile sizes."""
    print("\n| codec | pixels | tile | encode, ms | decode, ms |\n|---|---|---|---|---|")
    for name in NAMES:
        codec = shipped(name)
        for scale, tiles in ((1, (128, 256, 384, 768)), (4, (512, 1024, 2048, 3072))):
            x = torch.rand(1, 3, HEIGHT * scale, WIDTH * scale)
            y = codec.encode(x).y
            times: dict[int, list[tuple[float, float]]] = {}
            for _ in range(rounds if scale == 1 else 2):
                for codec.tile in tiles:
                    times.setdefault(codec.tile, []).append(_both_ways(codec, x, y))
            for tile, pairs in times.items():
                encode, decode = (statistics.median(column) for column in zip(*pairs, strict=True))
                size = f"{WIDTH * scale}x{HEIGHT * scale}"
                print(f"| {name} | {size} | {tile} | {encode:.0f} | {decode:.0f} |", flush=True)


def flips(folder: Path) -> None:
    """Print what bf16 changes in the symbols and the reconstructions of real pictures."""
    paths = find_images(folder)
    paths = paths[:: 20 if len(paths) > 500 else 1]
    for name in NAMES:
        for bpp in OPERATING_POINTS:
            codec, changed, symbols, levels = shipped(name, bpp), 0, 0, 0.0
            for path in paths:
                x = as_tensor(read_image(path))[None]
                codec.precision = "fp32"
                exact = codec.symbols(x)
                y = codec.dequantize({"y": exact}).y
                x_hat = codec.decode(y).clamp(0, 1)
                codec.precision = "bf16"
                changed += int((codec.symbols(x) != exact).sum())
                symbols += exact.numel()
                levels = max(levels, _levels(codec.decode(y).clamp(0, 1), x_hat))
            share = f"{changed:,} of {symbols:,} | {1e2 * changed / symbols:.4f} %"
            print(f"| {folder.name}, {len(paths)} | {name} | {bpp:g} | {share} | {levels:.2f} |")


def _both_ways(codec: CAE, x: Tensor, y: Tensor) -> tuple[float, float]:
    return milliseconds(lambda: codec._analysis(x)), milliseconds(lambda: codec.decode(y))


def _levels(x_hat: Tensor, x: Tensor) -> float:
    return 255 * float((x_hat - x).abs().max())


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--flips", nargs="*", type=Path, default=[], metavar="FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.rounds:
        speed(args.rounds)
    if args.tiles:
        tile_sizes(args.rounds or 5)
    if args.flips:
        print("\n| pictures | codec | bpp | symbols that bf16 flips | share | decoder, levels |")
        print("|---|---|---|---|---|---|")
    for folder in args.flips:
        flips(folder)


if __name__ == "__main__":
    main()
