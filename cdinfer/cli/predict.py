"""``cdinfer predict RUN INPUT…``: bitstreams or pictures -> classes, as JSON lines."""

import argparse
import json
import sys

from cdinfer.__main__ import describe


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer predict",
        allow_abbrev=False,
        description="Classify .cdi files, folders, shards or pictures; one JSON object a line "
        "with file, class and probability.",
        epilog="example: cdinfer predict runs/cls new/*.cdi",
    )
    parse.add_argument("run", help="folder of a run, or its parent (newest version)")
    parse.add_argument("inputs", nargs="+", metavar="INPUT", help=".cdi file, picture, folder, set")
    parse.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parse.add_argument("--max-pixels", type=int, help="largest picture a .cdi file may claim")
    parse.add_argument("--json", action="store_true", help="JSON lines (always on)")
    return parse


def main(argv: list[str]) -> int:
    """Predict and return the exit status: 2 if an input could not be read."""
    args = parser().parse_args(argv)
    from cdinfer.runs import load_run

    run = load_run(args.run, args.device)
    if args.max_pixels is not None and run.codec is not None:
        run.codec.max_pixels = args.max_pixels
    failed = []

    def report(file: str, error: Exception) -> None:
        failed.append(file)
        message = describe(error)
        message = message if file in message else f"{file}: {message}"
        print(f"cdinfer predict: {message}", file=sys.stderr)

    for prediction in run.predict(args.inputs, report):
        row = {
            "file": prediction.file,
            "class": prediction.name,
            "probability": round(prediction.probability, 6),
        }
        print(json.dumps(row, ensure_ascii=False))
    return 2 if failed else 0
