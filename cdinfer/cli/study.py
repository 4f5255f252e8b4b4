"""``cdinfer study NAME``: one question each, answered in CSV, Markdown, SVG and a one-file page.

    cdinfer study rd FOLDER     how many bytes buy how much quality: codecs on pictures
    cdinfer study compute       what parts cost to run, and when encoding once pays

Interrupted, ``study rd`` goes on where it was; what was measured before is not measured again
while its inputs stay. Its ``--json`` prints rows one object a line, each with a field ``table``:

table           its other fields
pictures        those of ``cdinfer/studies/rd.py``
means           those of ``means`` in ``cdinfer/studies/rd_tables.py``
equal_bytes     those of ``at_equal_bytes`` there
equal_rates     those of ``at_rates`` there
bd_rate         those of ``bd_rates`` there

Rows of ``study compute`` are those of ``cdinfer/studies/compute.py``, and of
``cdinfer/studies/tradeoff.py`` for records.

Pictures that fail in ``study rd`` are named on stderr, the rest is done, and the exit status is 1.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cdinfer.__main__ import unknown
from cdinfer.cli.progress import bar, status

if TYPE_CHECKING:
    from cdinfer.studies.rd_page import Tables

#: Most comparisons that the page of ``rd`` has: pictures times rates.
COMPARISONS = 9


def main(argv: list[str]) -> int:
    """Run a study and return the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: cdinfer study NAME ...\n\n{(__doc__ or '').strip()}")
        return 0 if argv else 2
    if argv[0] not in STUDIES:
        raise unknown("study", argv[0], STUDIES)
    return STUDIES[argv[0]](argv[1:])


def rd(argv: list[str]) -> int:
    """Compare codecs on a folder of pictures."""
    parser = argparse.ArgumentParser(
        "cdinfer study rd",
        allow_abbrev=False,
        description="Bytes, PSNR, SSIM, MS-SSIM and times of codecs on a folder of pictures.",
        epilog="example: cdinfer study rd photos/ --codecs cae jpeg webp runs/codec",
    )
    parser.add_argument("folder", metavar="FOLDER", help="pictures, at any depth")
    parser.add_argument(
        "--codecs", nargs="+", metavar="NAME|FOLDER",
        help="jpeg jpeg-444 jpeg2000 webp avif jxl; jxl-transcode (of JPEG sources, lossless); "
        "cae, ... (all its rates); the folder of a run, of a codec or of codecs "
        "(default: the standard ones and those that are shipped)",
    )  # fmt: skip
    parser.add_argument(
        "--anchor", default="jpeg", metavar="NAME", help="BD-rates are against it (default: jpeg)"
    )
    parser.add_argument(
        "--out", default="runs/study/rd", metavar="DIR", help="(default: runs/study/rd)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args(argv)
    from cdinfer.data.images import find_images
    from cdinfer.studies import rd, rd_crops, rd_page
    from cdinfer.studies.rd_points import default_names, find_points

    folder, out = Path(args.folder), Path(args.out)
    total = len(find_images(folder))  # before codecs are loaded: the likelier mistake
    points = find_points(args.codecs or default_names())
    records = out / "records"
    failures: list[str] = []
    with bar("", total * len(points) + COMPARISONS) as advance:

        def progress(title: str) -> None:
            advance(title=title)

        def failed(path: Path, reason: str) -> None:
            failures.append(f"cdinfer study rd: {path}: {reason}")
            print(failures[-1], file=sys.stderr)

        rows = rd.run(folder, points, records, progress, failed)
        comparisons = rd_crops.compare(folder, rows, points, records, progress)
    if rows:
        tables = rd_page.tabulate(rows, points, args.anchor)
        rd_page.write(out, tables, points, comparisons, folder)
        _print(tables, args.json, out)
    return 1 if failures else 0


def compute(argv: list[str]) -> int:
    """Count and time every encoder, decoder and network."""
    parser = argparse.ArgumentParser(
        "cdinfer study compute",
        allow_abbrev=False,
        description="MACs, parameters and milliseconds of every part, of the ways from bytes to an "
        "answer, and after how many looks encoding once has paid; of records what accuracy costs.",
        epilog="example: cdinfer study compute --size 360x480 --rounds 5",
    )
    parser.add_argument(
        "--size", type=_size, default=(224, 224), metavar="N|HxW", help="of the picture (224)"
    )
    parser.add_argument("--classes", type=int, default=1000, metavar="K", help="(1000)")
    parser.add_argument(
        "--codecs", nargs="+", default=["cae", "cae-lite"], metavar="NAME|FOLDER",
        help="(cae cae-lite)",
    )  # fmt: skip
    parser.add_argument("--bpp", type=float, default=0.33, metavar="R", help="of codecs by name")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="timings of each part; 0: only count (3)"
    )
    parser.add_argument(
        "--records", nargs="+", type=Path, default=[], metavar="PATH",
        help="files or folders of records: accuracy against MACs and bytes, and what is unbeaten",
    )  # fmt: skip
    parser.add_argument("--out", default="runs/study/compute", metavar="DIR", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args(argv)
    for flag, least in (("classes", 1), ("rounds", 0)):
        if getattr(args, flag) < least:
            raise ValueError(f"expected --{flag} of at least {least}, got {getattr(args, flag)}")
    from cdinfer.studies import compute, compute_tables, tradeoff

    accuracy = tradeoff.run(args.records) if args.records else []
    with status() as progress:
        rows = compute.run(
            args.size, args.classes, tuple(args.codecs), args.bpp, args.rounds, progress
        )
    rows += accuracy
    compute_tables.write(Path(args.out), rows)
    print("\n".join(map(json.dumps, rows)) if args.json else compute_tables.text(rows))
    return 0


def _size(text: str) -> tuple[int, int]:
    """Read a side, or height x width, of 8 to 8192 pixels."""
    sides = text.split("x")
    whole = all(side.isascii() and side.isdigit() for side in sides) and len(sides) in (1, 2)
    if not whole or not all(8 <= int(side) <= 8192 for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected pixels as 224 or, height first, 360x480, of 8 to 8192, got '{text}'"
        )
    return int(sides[0]), int(sides[-1])


#: Name -> what runs it.
STUDIES: dict[str, Callable[[list[str]], int]] = {"rd": rd, "compute": compute}


def _print(tables: "Tables", as_json: bool, out: Path) -> None:
    from cdinfer.studies import rd_page

    if as_json:
        for name in rd_page.TABLES:
            for row in getattr(tables, name):
                print(json.dumps({"table": name, **row}))
    else:
        print(rd_page.text(tables))
        print(f"{out / 'rd.html'} shows curves and crops; CSV and SVG files are beside it.")
