"""``python -m tools.experiments COMMAND``: plan, run and keep tables; write them into RESULTS.md.

plan TABLE       its cells: what is done, and about how long the rest takes
run TABLE        do the cells that nobody has done, kept records included; killed, it repeats no
                 finished one
keep TABLE       records of finished cells -> tools/records/TABLE-PRESET.json
tables           tools/records -> RESULTS.md
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

from cdinfer.__main__ import describe
from cdinfer.bitstream.atomic import write_atomically
from cdinfer.studies import cells
from cdinfer.studies.cells import Cell
from tools.experiments import keep, results
from tools.experiments.arms import TABLES, plan
from tools.experiments.costs import report

RESULTS = Path(__file__).parents[2] / "RESULTS.md"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parse = argparse.ArgumentParser(
        "python -m tools.experiments", description="Cells, records and tables of RESULTS.md."
    )
    commands = parse.add_subparsers(dest="command", required=True)
    for name, text in {
        "plan": "list the cells, what is done and what the rest costs",
        "run": "do the cells that nobody has done",
        "keep": "copy records of finished cells to tools/records",
    }.items():
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("table", choices=TABLES)
        sub.add_argument("--preset", default="cpu", help="sizes: cpu (default) or gpu")
        sub.add_argument("--out", type=Path, metavar="FOLDER", help="of runs, sets and records "
                         "(runs/experiments/TABLE-PRESET); processes may share it")  # fmt: skip
        sub.add_argument("--seeds", default="0,1,2,3,4", help="of trainings (0,1,2,3,4)")
        sub.add_argument("--only", nargs="+", metavar="GLOB", help="cells of these names and those "
                         "they need, optional ones included, as 'latents-0.635-*'")  # fmt: skip
        if name != "keep":
            sub.add_argument("--jobs", type=int, default=1, help="cells at a time (1)")
        if name == "run":
            sub.add_argument("--dry-run", action="store_true", help="the same as plan")
    tables = commands.add_parser("tables", help="write the tables of RESULTS.md")
    tables.add_argument("--check", action="store_true", help="only say whether they are as written")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _tables(args.check) if args.command == "tables" else _table(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"{args.command}: {describe(error)}", file=sys.stderr)
        return 2


def choose(table: str, preset: str, seeds: str, only: Sequence[str] | None) -> list[Cell]:
    """Return the cells asked for, and those they need.

    Raises:
        ValueError: if there is no such preset or seed, or a pattern fits no cell.
    """
    presets = TABLES[table].presets
    if preset not in presets:
        raise ValueError(f"no preset '{preset}' of {table}: give one of {', '.join(presets)}")
    if not all(seed.isdecimal() for seed in seeds.split(",")):
        raise ValueError(f"expected seeds as 0,1,2, got --seeds {seeds}")
    chosen, everything = plan(table, preset, [int(seed) for seed in seeds.split(",")])
    if only:
        found = {glob: [c for c in everything if fnmatchcase(c.name, glob)] for glob in only}
        if missing := [glob for glob, matching in found.items() if not matching]:
            raise ValueError(f"no cell is called '{missing[0]}': {table} plan --only '*' lists all")
        chosen = [cell for matching in found.values() for cell in matching]
    return cells.with_needs(chosen, everything)


def _table(args: argparse.Namespace) -> int:
    chosen = choose(args.table, args.preset, args.seeds, args.only)
    name = f"{args.table}-{args.preset}"
    folder = args.out or Path("runs", "experiments", name)
    file = keep.RECORDS / f"{name}.json"
    if args.command == "keep":
        print(f"{keep.keep(chosen, folder, file)} records in {file}")
        return 0
    if args.jobs < 1:
        raise ValueError(f"expected --jobs of at least 1, got {args.jobs}")
    if args.command == "plan" or args.dry_run:
        print(report(chosen, folder, keep.read(file), args.jobs))
        return 0
    if "CDINFER_TEST_DATA" not in os.environ:
        raise ValueError("no CDINFER_TEST_DATA: set it to the folder of the data sets")
    threads = TABLES[args.table].presets[args.preset].threads
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    cells.run(keep.restore(chosen, folder, file), folder, _say, args.jobs)
    print(f"all done; to keep the records: python -m tools.experiments keep {args.table} "
          f"--preset {args.preset} --out {folder}")  # fmt: skip
    return 0


def _tables(check: bool) -> int:
    old = RESULTS.read_text("utf-8")
    new = results.fill(old)
    if check:
        print("as written" if new == old else "RESULTS.md differs: run this without --check")
        return int(new != old)
    write_atomically(RESULTS, new.encode())
    return 0


def _say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
