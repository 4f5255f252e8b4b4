"""``cdinfer predict RUN INPUT…``: bitstreams or pictures -> classes, as JSON lines.

field         of            meaning
file          both          path of the input
class         a classifier  the most likely class
probability   a classifier  of that class
classes       a segmenter   class -> share of the pixels, of those that occur, largest first
height        a segmenter   of the mask: a bitstream's as in its header, a picture's own
width         a segmenter   likewise
mask          a segmenter   path of the palette PNG, with --save
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdinfer.__main__ import describe

if TYPE_CHECKING:
    from cdinfer.cli.overlays import MaskWriter
    from cdinfer.runs import ClassifierRun, SegmenterRun, Source

Report = Callable[[str, Exception], None]


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer predict",
        allow_abbrev=False,
        description="Classify .cdi files, folders, shards or pictures, or their pixels; one JSON "
        "object a line: file, class and probability, or file, classes with their shares of the "
        "pixels, height and width.",
        epilog="example: cdinfer predict runs/cls new/*.cdi",
    )
    parse.add_argument("run", help="folder of a run, or its parent (newest version)")
    parse.add_argument("inputs", nargs="+", metavar="INPUT", help=".cdi file, picture, folder, set")
    parse.add_argument(
        "--save",
        metavar="OUT",
        help="write masks as palette PNG, with an overlay beside each: file for one input, else "
        "folder, which gets contact sheets, too",
    )
    parse.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parse.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parse.add_argument(
        "--engine", default="torch", choices=("torch", "onnx", "openvino"),
        help="what computes the network; the others need pip install 'cdinfer[onnx,openvino]'",
    )  # fmt: skip
    parse.add_argument(
        "--precision", default="fp32", choices=("fp32", "bf16"),
        help="of the network; bf16 halves its time where the machine has it",
    )  # fmt: skip
    parse.add_argument("--max-pixels", type=int, help="largest picture a .cdi file may claim")
    parse.add_argument("--json", action="store_true", help="JSON lines (always on)")
    return parse


def main(argv: list[str]) -> int:
    """Predict and return the exit status: 2 if an input could not be read."""
    args = parser().parse_args(argv)
    if args.overwrite and args.save is None:
        raise ValueError("--overwrite is about the files of --save OUT: give that, too")
    from cdinfer.runs import ClassifierRun, load_run

    run = load_run(args.run, args.device, engine=args.engine, precision=args.precision)
    if args.max_pixels is not None and run.codec is not None:
        run.codec.max_pixels = args.max_pixels
    failed = []

    def report(file: str, error: Exception) -> None:
        failed.append(file)
        message = describe(error)
        message = message if file in message else f"{file}: {message}"
        print(f"cdinfer predict: {message}", file=sys.stderr)

    if not isinstance(run, ClassifierRun):
        rows = segment(run, args, report)
    elif args.save is None:
        rows = classify(run, args.inputs, report)
    else:
        raise ValueError(f"{args.run} is a classifier, which makes no masks: leave out --save")
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    return 2 if failed else 0


def classify(run: "ClassifierRun", inputs: list[str], report: Report) -> Iterator[dict[str, Any]]:
    """Yield the row of each input that can be read."""
    for prediction in run.predict(inputs, report):
        yield {
            "file": prediction.file,
            "class": prediction.name,
            "probability": round(prediction.probability, 6),
        }


def segment(
    run: "SegmenterRun", args: argparse.Namespace, report: Report
) -> Iterator[dict[str, Any]]:
    """Yield the row of each input that can be read, and write its mask if that is wanted."""
    inputs, writer = args.inputs, None
    if args.save is not None:
        from cdinfer.cli.overlays import MaskWriter

        inputs = list(run.inputs.find(args.inputs, report))
        several = len(args.inputs) > 1 or Path(args.inputs[0]).is_dir()
        writer = MaskWriter(args.save, inputs, several, args.overwrite, run.classes, run.palette)
        inputs = [source for source in inputs if _is_free(writer, source, report)]
    for result in run.predict(inputs, report):
        height, width = result.mask.shape
        shares = {name: round(share, 6) for name, share in result.shares.items()}
        row = {"file": result.file, "classes": shares, "height": height, "width": width}
        if writer is not None:
            try:
                row["mask"] = str(writer.write(result))
            except (ValueError, OSError, MemoryError) as error:
                report(result.file, error)
                continue
        yield row
    if writer is not None:
        writer.finish()


def _is_free(writer: "MaskWriter", source: "Source", report: Report) -> bool:
    """Tell whether the mask of ``source`` may be written, before it is made."""
    try:
        writer.check(source)
    except ValueError as error:
        report(source.file, error)
        return False
    return True
