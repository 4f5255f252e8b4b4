"""What ``encode``, ``decode`` and ``info`` share: inputs, outputs, rows, one line an error.

field     in --json output
file      path of the .cdi file
codec     four letters, as in its header
bpp       8 * bytes / (height * width), header included
height    of the picture, in pixels
width     of the picture, in pixels
bytes     size of the .cdi file
"""

import argparse
import difflib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.__main__ import describe
from cdinfer.bitstream.atomic import write_atomically
from cdinfer.bitstream.container import Header, parse
from cdinfer.bitstream.header import MAGIC

#: Those of ``codecs.stored``, without the seconds that torch takes to import.
CODECS = ("cae", "cae-lite", "cae-paper")


class Input(NamedTuple):
    """A file to read, and its place below an output folder."""

    path: Path
    place: Path


class Result(NamedTuple):
    """What a command says about one file: a line's start for people, a row for programs.

    ``notes`` go to stderr: what the user should know of a file that is done.
    """

    title: str
    row: dict[str, Any]
    notes: tuple[str, ...] = ()


def make_parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser that has ``--json`` already."""
    parser = argparse.ArgumentParser(
        f"cdinfer {command}",
        allow_abbrev=False,
        description=description,
        epilog=f"example: {example}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    return parser


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that writes files."""
    parser.add_argument(
        "-o", "--out", metavar="OUT", help="file for one input, else folder (default: beside it)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--max-pixels", type=_pixels, metavar="N", help="refuse larger pictures (default: 512 Mi)"
    )


def add_codec_flag(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Add the flag that chooses a codec: cae, unless a command says what it takes by itself."""
    parser.add_argument(
        "--codec",
        default=None if default else CODECS[0],
        metavar="NAME|RUN|URL",
        help=f"{', '.join(CODECS)}, the folder of a run or set, or its URL "
        f"(default: {default or CODECS[0]})",
    )


def add_precision_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag of a command that runs a codec's networks."""
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the networks; bf16 takes half the time on CPUs that have it, and changes a few "
        "symbols in 10,000 (default: fp32)",
    )


def decibels(text: str) -> float:
    """Read a PSNR from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected decibels, as in 28, got '{text}'")
    return value


def each(command: str, paths: Iterable[Path], work: Callable[[Path], Result], as_json: bool) -> int:
    """Print the result of ``work`` for every path, or on stderr why there is none.

    Returns:
        Exit status: 0, or 1 if any file failed.
    """
    status = 0
    for path in paths:
        try:
            title, row, notes = work(path)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            message = _explain(error).removeprefix(f"{path}: ")
            print(f"cdinfer {command}: {path}: {message}", file=sys.stderr)
            status = 1
            continue
        size = f"{row['bytes']:,} bytes, {row['bpp']:.4g} bpp, {row['width']} x {row['height']}"
        print(json.dumps(row) if as_json else f"{title}: {size}", flush=True)
        for note in notes:
            print(f"cdinfer {command}: {path}: {note}", file=sys.stderr)
    return status


def describe_file(path: Path, header: Header, num_bytes: int) -> dict[str, Any]:
    """Return the row of a ``.cdi`` file; see the module's table."""
    return {
        "file": str(path),
        "codec": header.codec,
        "bpp": 8 * num_bytes / (header.height * header.width),
        "height": header.height,
        "width": header.width,
        "bytes": num_bytes,
    }


def read_header(path: Path) -> tuple[Header, int]:
    """Return the header of a ``.cdi`` file and the file's size in bytes.

    Raises:
        ValueError: if the file cannot be read or is none.
    """
    check_input(path)
    try:
        with path.open("rb") as file:
            head, num_bytes = file.read(len(MAGIC)), os.fstat(file.fileno()).st_size
            if head == MAGIC:  # fields may be long; a foreign file may be longer
                head += file.read()
    except OSError as error:
        raise ValueError(
            f"cannot be read ({error.strerror}); check its permissions and the disk"
        ) from None
    return parse(head).header, num_bytes


def check_input(path: Path) -> None:
    """Refuse what is not a file.

    Raises:
        ValueError: naming the nearest name for a missing file.
    """
    if path.is_dir():
        raise ValueError("is a folder; give the files in it")
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, 1)
        hint = f"did you mean '{path.parent / close[0]}'?" if close else "check the path"
        raise ValueError(f"no such file; {hint}")
    if not path.is_file():
        raise ValueError("is a device or a pipe; give a file")


def plan_outputs(
    inputs: Sequence[Input],
    out: str | None,
    into_folder: bool,
    suffixes: Sequence[str],
    flag: str = "-o",
) -> dict[Path, Path]:
    """Return input -> output.

    Args:
        inputs: at least one.
        out: what ``flag`` said.
        into_folder: whether ``out`` has to be a folder; it is one anyway if it exists as one or
            ends in a slash.
        suffixes: what a single output may end in; the first is the default.
        flag: of the command, for errors.

    Raises:
        ValueError: if ``out`` is no place for them, or two files would be written over each other.
    """
    if out is None:
        outputs = [_renamed(path, suffixes[0]) for path, _ in inputs]
    elif into_folder or Path(out).is_dir() or out.endswith(os.sep):
        if Path(out).is_file():
            raise ValueError(f"{flag} {out} is a file: several pictures need a folder")
        outputs = [Path(out) / _renamed(place, suffixes[0]) for _, place in inputs]
    else:
        if not out.lower().endswith(tuple(suffixes)):
            raise ValueError(
                f"expected a file ending in {' or '.join(suffixes)}, got {flag} {out}; give "
                f"{flag} {_renamed(Path(out), suffixes[0])}, or {flag} {out}{os.sep} for a folder"
            )
        outputs = [Path(out)]
    taken: dict[str, Path] = {}
    for (path, _), output in zip(inputs, outputs, strict=True):
        place = os.path.realpath(output)
        if place in taken:
            raise ValueError(
                f"{taken[place]} and {path} would both become {output}; rename one, or give "
                f"each its own {flag} OUT, one at a time"
            )
        taken[place] = path
    return dict(zip((path for path, _ in inputs), outputs, strict=True))


def check_output(path: Path, output: Path, overwrite: bool, flag: str = "-o") -> None:
    """Refuse to replace what is there, before any work is done; ``flag`` is the command's.

    Raises:
        ValueError: if ``output`` is taken, or is the input ``path`` itself.
    """
    if os.path.realpath(path) == os.path.realpath(output):
        raise ValueError(f"would be replaced by what is made of it; give another {flag} OUT")
    if output.is_file() and not overwrite:
        raise ValueError(
            f"{output} exists; replace it with --overwrite, or give another {flag} OUT"
        )
    if os.path.lexists(output) and not output.is_file():
        raise ValueError(f"{output} is not a file; give another {flag} OUT")


def write_output(path: Path, data: bytes, flag: str = "-o") -> None:
    """Write a file whole or not at all, and its folder if missing; ``flag`` is the command's.

    Raises:
        ValueError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise ValueError(
            f"cannot write {path} ({error.strerror}); free space there, or give another {flag} OUT"
        ) from None


def _renamed(path: Path, suffix: str) -> Path:
    return path.parent / f"{path.stem}{suffix}"


def _explain(error: Exception) -> str:
    """Return one line, or raise ``error`` again if it is not the user's or the machine's."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "not enough memory for a picture of this size; crop it, or use a larger machine"
    if isinstance(error, RuntimeError):
        raise error
    return describe(error)


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of pixels, got '{text}'")
    return int(text)
