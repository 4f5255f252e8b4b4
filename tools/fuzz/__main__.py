"""Try to break every reader with damaged and hostile files.

    python -m tools.fuzz [--kind NAME ...] [--count N] [--minutes M] [--seed S] [--out FOLDER]

A finding is anything but a one-line error of the documented types or a right result: another
exception, a dead process, more than 2 s of processor time, more than 200 MB over the baseline,
other symbols than were written. Inputs are fixed by seed, kind and number; ``--out`` keeps those
that are findings, ``--only N`` tries a single one again, here. The exit status is 1 if there are
findings.

    container   .cdi files            commands   info and decode on them
    coder       payloads              shards     tars, mapped and through webdataset
    index       index.json            weights    a codec's folder
    config      YAML and run.json     checkpoint best.ckpt
"""

import argparse
import os
import re
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tools.fuzz.kinds import Kind
from tools.fuzz.material import NAMES, prepare
from tools.fuzz.watch import Count, Finding, case_of, hunt

#: Findings of one kind that look alike are kept so many times.
ALIKE = 3


def main() -> int:
    """Fuzz, print a table and the findings, and return the exit status."""
    parse = argparse.ArgumentParser(
        "python -m tools.fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parse.add_argument("--kind", choices=(*NAMES, "all"), action="append")
    parse.add_argument("--count", type=int, default=1000, help="inputs of each kind")
    parse.add_argument("--minutes", type=float, default=10, help="stop then, whatever is left")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, help="folder for inputs that are findings")
    parse.add_argument("--only", type=int, metavar="N", help="try input N again, in this process")
    args = parse.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * args.minutes
    names = NAMES if not args.kind or "all" in args.kind else tuple(args.kind)
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        kinds = prepare(names, Path(folder), args.seed)
        if args.only is not None:
            return max(_again(kind, args.seed, args.only) for kind in kinds)
        print("| kind | inputs | accepted | refused | inputs/s | peak, MB | findings |")
        print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
        texts = []
        for kind in kinds:
            total, alike = Count(), dict[str, list[Finding]]()
            for finding in hunt(kind, args.seed, args.count, deadline, total):
                alike.setdefault(_key(finding), []).append(finding)
                if args.out is not None and len(alike[_key(finding)]) <= ALIKE:
                    _keep(args.out, finding)
            number = sum(map(len, alike.values()))
            refused = total.inputs - total.accepted - number
            print(
                f"| {kind.name} | {total.inputs:,} | {total.accepted:,} | {refused:,} "
                f"| {total.inputs / max(total.seconds, 1e-3):,.0f} | {total.peak / 1e6:.0f} "
                f"| {number} |",
                flush=True,
            )
            texts += [f"{len(same)} x {_describe(same[0])}" for same in alike.values()]
            found += number
    print("\n".join(["", *texts]))
    return int(found > 0)


def _again(kind: Kind, seed: int, number: int) -> int:
    case = case_of(kind, seed, number)
    accepted, text = kind.judge(case)
    print(f"{kind.name} {number} ({case.about}): {text or ('refused', 'accepted')[accepted]}")
    return int(bool(text))


def _key(finding: Finding) -> str:
    """Return what findings of one cause share: all but numbers and what is quoted."""
    first, *places = finding.text.splitlines() or [""]
    return re.sub(r"\d+", "N", first.partition(":")[0]) + "".join(places)


def _describe(finding: Finding) -> str:
    return f"{finding.kind} {finding.number} ({finding.case.about}): {finding.text}"


def _keep(folder: Path, finding: Finding) -> None:
    for name, content in finding.case.files.items():
        path = folder / f"{finding.kind}-{finding.number}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / f"{finding.kind}-{finding.number}" / "finding.txt").write_text(_describe(finding))


if __name__ == "__main__":
    raise SystemExit(main())
