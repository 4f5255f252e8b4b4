"""``cdinfer eval RUN``: metrics of a trained run.

A network is tested on the test split of its data, or of ``--data``. A classifier: loss, top1, top5
and confusion matrix. A segmenter: loss, and of all pixels counted once miou, macc (mean of the
classes' recalls), pixel (share of pixels that got their class) and ``iou``, an object with the
intersection over union of each class (null: neither there nor predicted).

A codec is measured on whole pictures, those of its validation or of ``--data`` (the test split if
there is one, otherwise all): bpp of real files, bits_est, psnr and ms_ssim, means over the
pictures.
"""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdinfer.data.folders import PictureDataset

#: How the names of a class's metric start.
IOU = "test/iou/"


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer eval",
        allow_abbrev=False,
        description="Test a run on the data in its config.yaml, or on --data. For a network, more "
        "settings as dotted overrides, as in --data.batch_size 8.",
        epilog="example: cdinfer eval runs/cls",
    )
    parse.add_argument("run", help="folder of a run, or its parent (newest version)")
    parse.add_argument("--data", help="pictures or shards to test on instead")
    parse.add_argument("--json", action="store_true", help="print one JSON object")
    return parse


def main(argv: list[str]) -> int:
    """Evaluate, print the metrics and return the exit status."""
    args, rest = parser().parse_known_args(argv)
    from cdinfer.runs import find_run, read_about

    run = find_run(args.run)
    about = read_about(run)
    if about["task"] != "codec":
        bar = ["--trainer.enable_progress_bar", str(not args.json).lower()]
        result = test_network(run, about["classes"], args.data, [*bar, *rest])
    elif rest:
        raise ValueError(f"unknown {rest[0]}: for a codec's run, eval takes --data and --json")
    else:
        result = measure_codec(run, args.data)
    print(json.dumps(result) if args.json else describe(result))
    return 0


def measure_codec(run: Path, data: str | None) -> dict[str, Any]:
    """Return mean rate and quality of the frozen codec of ``run``.

    Raises:
        ValueError: if the run has no frozen codec, or there are no pictures.
    """
    from cdinfer.codecs import read_codec

    if not (run / "codec" / "codec.json").is_file():
        raise ValueError(
            f"no codec in {run}: its training has not ended; finish it with cdinfer train "
            f"--task codec --ckpt_path {run / 'checkpoints' / 'last.ckpt'}"
        )
    codec = read_codec(run / "codec")
    pictures = find_validation(run) if data is None else find_test(Path(data))
    from cdinfer.tasks.compression import measure, nanmean

    rows = [measure(codec, pictures[i]["image"].unsqueeze(0)) for i in range(len(pictures))]
    means = {name: nanmean([row[name] for row in rows]) for name in rows[0]}
    return {"run": str(run), "data": str(pictures.root), "pictures": len(rows), **means}


def find_validation(run: Path) -> "PictureDataset":
    """Return the pictures that ``run`` was validated on, whole.

    Raises:
        ValueError: if they or the run's settings are missing.
    """
    from cdinfer.cli.configs import read_config
    from cdinfer.data.folders import PictureDataset
    from cdinfer.data.layout import find_pictures
    from cdinfer.data.sample import sample_set

    try:
        config = read_config(run / "config.yaml")["data"]
        path, resize, splits = (config[name] for name in ("path", "resize", "splits"))
        for value, kind in ((path, str), (resize, int), (splits, str)):
            if not isinstance(value, kind | None):
                raise TypeError(f"expected {kind.__name__}, got {value!r}")
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"damaged {run / 'config.yaml'}: give --data FOLDER") from error
    pictures = find_pictures(sample_set() if path is None else Path(path), splits)
    return PictureDataset(pictures.root, pictures.splits["val"], None, resize)


def find_test(root: Path) -> "PictureDataset":
    """Return the test pictures of a folder, or all of them where none are set apart.

    Raises:
        ValueError: if there are no pictures in it.
    """
    from cdinfer.data.folders import PictureDataset
    from cdinfer.data.layout import find_pictures, is_shards

    if is_shards(root):
        raise ValueError(f"'{root}' holds latents: a codec is measured on a folder of pictures")
    splits = find_pictures(root).splits
    return PictureDataset(root, splits["test"] or splits["train"] + splits["val"], None)


def test_network(
    run: Path, classes: list[str], data: str | None, rest: list[str]
) -> dict[str, Any]:
    """Return the metrics of a classifier or a segmenter on test data.

    Raises:
        ValueError: if the data have other classes.
    """
    arguments = expand(run, data, rest)
    from cdinfer.cli import lightning

    cli = lightning.run(arguments, quiet=True)
    if cli.datamodule.classes != classes:
        raise ValueError(
            f"'{cli.datamodule.root}' has the classes {', '.join(cli.datamodule.classes)[:80]}, "
            f"{run} knows {', '.join(classes)[:80]}: give --data with those, in this order"
        )
    metrics = {k: _finite(float(v)) for k, v in cli.trainer.callback_metrics.items()}
    result: dict[str, Any] = {"run": str(run), "data": str(cli.datamodule.root)}
    result |= {k: v for k, v in metrics.items() if not k.startswith(IOU)} | {"classes": classes}
    if iou := {k.removeprefix(IOU): v for k, v in metrics.items() if k.startswith(IOU)}:
        return result | {"iou": iou}
    return result | {"confusion": cli.model.confusion.compute().tolist()}


def expand(run: Path, data: str | None, rest: list[str]) -> list[str]:
    """Return the LightningCLI arguments that test ``run`` quietly, from its own codec."""
    from cdinfer.runs import find_checkpoint

    args = ["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(find_checkpoint(run))]
    args += ["--trainer.logger", "false", "--trainer.callbacks", "null", "--verbose", "false"]
    args += ["--trainer.enable_model_summary", "false", "--trainer.num_nodes", "1"]
    args += ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    if (run / "codec").is_dir():
        args += ["--model.codec", str(run), "--model.bpp", "null"]
    if data is not None:
        args += ["--data.path", data]
    return args + rest


def describe(result: dict[str, Any]) -> str:
    """Return metrics and what there is of each class for a person."""
    lines = [f"{result['run']} on {result['data']}"]
    for name, value in result.items():
        if name == "pictures":
            lines.append(f"{name:<12} {value}")
        elif value is None or isinstance(value, float):  # MS-SSIM of small pictures is None
            lines.append(f"{name:<12} {_show(value)}")
    if "iou" in result:
        width = max(map(len, result["iou"]))
        lines += ["", "intersection over union"]
        lines += [f"{name:>{width}} {_show(value)}" for name, value in result["iou"].items()]
    if "confusion" in result:
        names = result["classes"]
        width = max(map(len, names))
        lines += ["", "confusion: a row for each true class, a column for each predicted one"]
        lines += [
            f"{name:>{width}} " + " ".join(f"{count:>5}" for count in row)
            for name, row in zip(names, result["confusion"], strict=True)
        ]
    return "\n".join(lines)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _finite(value: float) -> float | None:
    """JSON knows no NaN, which is what a class has that is not there."""
    return value if math.isfinite(value) else None
