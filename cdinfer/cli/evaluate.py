"""``cdinfer eval RUN``: metrics of a trained run on the test pictures of its data."""

import argparse
import json
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer eval",
        allow_abbrev=False,
        description="Test a run on the data in its config.yaml, or on --data. More settings as "
        "dotted overrides, as in --data.batch_size 8.",
        epilog="example: cdinfer eval runs/cls",
    )
    parse.add_argument("run", help="folder of a run, or its parent (newest version)")
    parse.add_argument("--data", help="pictures or shards to test on instead")
    parse.add_argument("--json", action="store_true", help="print one JSON object")
    return parse


def expand(run: Path, data: str | None, rest: list[str]) -> list[str]:
    """Return the LightningCLI arguments that test ``run`` quietly, from its own codec."""
    checkpoints = [run / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found = [path for path in checkpoints if path.is_file()]
    if not found:
        raise ValueError(f"no checkpoint in {run / 'checkpoints'}: train it first")
    args = ["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(found[0])]
    args += ["--trainer.logger", "false", "--trainer.callbacks", "null", "--verbose", "false"]
    args += ["--trainer.enable_model_summary", "false"]
    if (run / "codec").is_dir() and json.loads((run / "run.json").read_text())["task"] != "codec":
        args += ["--model.codec", str(run), "--model.bpp", "null"]
    if data is not None:
        args += ["--data.path", data]
    return args + rest


def main(argv: list[str]) -> int:
    """Evaluate, print the metrics and return the exit status."""
    args, rest = parser().parse_known_args(argv)
    from cdinfer.runs import find_run, read_about

    run = find_run(args.run)
    about = read_about(run)
    arguments = expand(run, args.data, rest)
    from cdinfer.cli import lightning

    cli = lightning.run(arguments, quiet=True)
    metrics = {k: float(v) for k, v in cli.trainer.callback_metrics.items()}
    result: dict[str, Any] = {"run": str(run), "data": str(cli.datamodule.root), **metrics}
    confusion = getattr(cli.model, "confusion", None)
    if confusion is not None:
        result |= {"classes": about["classes"], "confusion": confusion.compute().tolist()}
    print(json.dumps(result) if args.json else describe(result))
    return 0


def describe(result: dict[str, Any]) -> str:
    """Return metrics and confusion matrix for a person."""
    lines = [f"{result['run']} on {result['data']}"]
    lines += [f"{k:<12} {v:.4f}" for k, v in result.items() if isinstance(v, float)]
    if "confusion" in result:
        names = result["classes"]
        width = max(map(len, names))
        lines += ["", "confusion: a row for each true class, a column for each predicted one"]
        lines += [
            f"{name:>{width}} " + " ".join(f"{count:>5}" for count in row)
            for name, row in zip(names, result["confusion"], strict=True)
        ]
    return "\n".join(lines)
