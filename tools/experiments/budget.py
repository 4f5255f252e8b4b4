"""What a trained network cost: ``python -m tools.experiments.budget RUN``.

field          of the JSON object
macs           multiply-accumulates of the network on one training crop; codecs are not counted
parameters     of the network
steps          of the optimiser, at the end of training
batch          samples a step
"""

import argparse
import json
from pathlib import Path

import torch

from cdinfer.cli.configs import read_config
from cdinfer.models import count_macs
from cdinfer.runs import find_run, load_run, read_about


def measure(folder: Path) -> dict[str, int]:
    """Return the fields of the module's table."""
    run, about = load_run(folder), read_about(folder)
    codec = run.codec if about["preprocessing"]["input"] == "latents" else None
    channels, stride = (3, 1) if codec is None else (codec.channels, codec.stride)
    side = about["preprocessing"]["crop"] // stride
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True, mmap=True)
    return {
        "macs": count_macs(run.net, (1, channels, side, side)),
        "parameters": sum(parameter.numel() for parameter in run.net.parameters()),
        "steps": last["global_step"],
        "batch": read_config(folder / "config.yaml")["data"]["batch_size"],
    }


def main() -> int:
    """Print the budget and return the exit status."""
    parse = argparse.ArgumentParser("python -m tools.experiments.budget")
    parse.add_argument("run", help="folder of a run, or its parent (newest version)")
    parse.add_argument("--json", action="store_true", help="print one JSON object")
    args = parse.parse_args()
    fields = measure(find_run(args.run))
    lines = [f"{name:<10} {value:>15,}" for name, value in fields.items()]
    print(json.dumps(fields) if args.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
