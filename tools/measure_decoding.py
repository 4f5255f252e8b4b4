"""Entropy decoding against CompressAI: 28x28x16 symbols a picture, one thread, in one run.

    OMP_NUM_THREADS=1 python tools/measure_decoding.py --on RSSCN7 [--codec NAME|RUN]

Needs CompressAI (``pip install "compressai>=1.2.8"``). Ours decodes the symbols of real pictures,
28x28 latents cut from 64 of them, with the context model that ships; CompressAI's
`EntropyBottleneck`, an `EntropyModel` as shipped, as many symbols of the same pictures. CPU time
of this thread, rounds interleaved, medians; the ideal is a copy of the symbols.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck

from cdinfer.bitstream import rans
from cdinfer.codecs import CAE, load_codec
from cdinfer.data.images import find_images, read_image, to_tensor

SIDE, PICTURES, ROUNDS = 28, 64, 15


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def main() -> None:
    """Print a Markdown table."""
    parse = argparse.ArgumentParser()
    parse.add_argument("--on", type=Path, required=True, help="pictures of 224x224 or more")
    parse.add_argument("--codec", default="cae")
    args = parse.parse_args()
    torch.set_num_threads(1)
    codec = load_codec(args.codec)
    assert isinstance(codec, CAE)
    model = codec.model
    assert model is not None
    paths = find_images(args.on)
    chosen = paths[:: max(1, len(paths) // PICTURES)][:PICTURES]
    planes = [codec.symbols(to_tensor(read_image(p))[None])[:, :, :SIDE, :SIDE] for p in chosen]
    symbols = torch.cat(planes).numpy()
    payloads, shape = rans.encode(symbols, model), symbols.shape[1:]
    peer = EntropyBottleneck(codec.channels)
    peer.update()
    k = torch.from_numpy(symbols.astype(np.float32) - model.zeros[:, None, None])
    strings = peer.compress(k)
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "ours, a batch of 64": (PICTURES, lambda: rans.decode(payloads, model, shape)),
        "ours, one stream": (1, lambda: rans.decode(payloads[:1], model, shape)),
        "CompressAI, a batch of 64": (PICTURES, lambda: peer.decompress(strings, (SIDE, SIDE))),
        "copying the symbols": (PICTURES, lambda: symbols.copy()),
    }
    assert (rans.decode(payloads, model, shape) == symbols).all()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (count, work) in works.items():
            times[name].append(cpu_seconds(work) / count)
    medians = {name: float(np.median(taken)) for name, taken in times.items()}
    theirs = medians["CompressAI, a batch of 64"]
    print("| decoder | us a picture | Msymbols/s | against CompressAI |")
    print("|---|---:|---:|---:|")
    for name, seconds in medians.items():
        speed = symbols[0].size / seconds / 1e6
        print(f"| {name} | {seconds * 1e6:.1f} | {speed:,.0f} | {theirs / seconds:.1f}x |")


if __name__ == "__main__":
    main()
