"""What integers would do to a trained classifier: top-1 and time, in one thread.

    pip install nncf openvino
    python tools/measure_int8.py RUN --data SHARDS [--data SHARDS ...]

The network of a run on latents in OpenVINO: fp32, bf16, and quantised to 8 bits after training
(NNCF's defaults, calibrated with 300 training samples of the set). Top-1 is on the test split of
the set, centre crops as validation sees them; times are CPU times for a sample of 16 at once,
medians over rounds that take turns. Several runs: as many ``--data``, or one for all.
"""

import argparse
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdinfer.data.shards import ShardDataset
from cdinfer.runs import ClassifierRun, load_run
from cdinfer.runs.engines import EXAMPLE, convert_to_openvino, load_openvino, prepare
from cdinfer.studies.bench.timing import Work, interleave
from cdinfer.studies.clock import one_thread
from cdinfer.studies.demo_table import table

CALIBRATION, BATCH, ROUNDS = 300, 16, 7

Call = Callable[[Tensor], Tensor]


def read(run: ClassifierRun, shards: Path, split: str, most: int) -> tuple[Tensor, Tensor]:
    """Return latents and labels of at most so many samples of a split."""
    data = ShardDataset(shards, split, run.inputs.crop)
    assert run.codec is not None
    batch = data.__getitems__(list(range(min(most, len(data)))))
    return run.codec.dequantize(batch["planes"]).y, batch["label"]


def quantise(run: ClassifierRun, samples: Tensor) -> Call:
    """Return the network with weights and activations of 8 bits."""
    model = convert_to_openvino(run.net, torch.rand(2, run.inputs.channels, *EXAMPLE))
    import nncf  # only now: it imports OpenVINO, which would tell its makers

    nncf.set_log_level(logging.ERROR)
    inputs: list[Any] = [sample[None].numpy() for sample in samples]
    model = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs))
    return load_openvino(model, "fp32")


def measure(name: str, shards: Path) -> list[list[str]]:
    """Return a row of the table for each kind of the network of a run."""
    run = load_run(name)
    if not isinstance(run, ClassifierRun) or run.inputs.reads != "latents":
        raise SystemExit(f"{name}: expected a classifier on latents")
    x, labels = read(run, shards, "test", 10**6)
    samples, _ = read(run, shards, "train", CALIBRATION)
    channels = run.inputs.channels
    calls: dict[str, Call] = {
        "torch fp32": prepare(run.net, channels),
        "torch bf16": prepare(run.net, channels, "torch", "bf16"),
        "openvino fp32": prepare(run.net, channels, "openvino"),
        "openvino bf16": prepare(run.net, channels, "openvino", "bf16"),
        "openvino int8": quantise(run, samples),
    }
    works = {kind: Work(BATCH, lambda call=call: call(x[:BATCH])) for kind, call in calls.items()}
    times = interleave(works, ROUNDS)
    rows, usual = [], None
    for kind, call in calls.items():
        found = torch.cat([call(part) for part in x.split(64)]).argmax(1)
        usual = found if usual is None else usual
        top1 = (found == labels).double().mean()
        changed = int((found != usual).sum())
        milliseconds = 1e3 * statistics.median(times[kind].cpu)
        rows.append([name, kind, f"{top1:.2%}", f"{changed} of {len(x)}", f"{milliseconds:.2f}"])
    return rows


def main() -> int:
    """Print a table and return the exit status."""
    parse = argparse.ArgumentParser("measure_int8")
    parse.add_argument("runs", nargs="+", metavar="RUN", help="folder of a classifier's run")
    parse.add_argument("--data", action="append", type=Path, required=True, metavar="SHARDS")
    args = parse.parse_args()
    data = args.data * len(args.runs) if len(args.data) == 1 else args.data
    pairs = zip(args.runs, data, strict=True)
    with one_thread():
        rows = [row for run, shards in pairs for row in measure(run, shards)]
    print(table(["run", "network", "top-1", "answers changed", "ms"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
