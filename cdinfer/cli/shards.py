"""``cdinfer shards ACTION SET``: look whether a set is whole, and change it.

action    field        in --json output, beside ``set``
verify    shards, blocks, samples   what there is
          leftovers    files of interrupted changes; the next change removes them
          faults       objects with shard, block, key (null where it is about no part) and fault
relabel   relabelled   samples that have another class now
delete    deleted      samples that are gone
append    appended     pictures that came
          skipped, dropped   that could not be read, and that the floor of the set left out
merge     merged       samples that came
"""

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from cdinfer.__main__ import describe
from cdinfer.cli.progress import bar


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer shards",
        allow_abbrev=False,
        description="Look whether a set of shards is whole, or change it. A change is made at "
        "once or not at all, even if it is killed; who reads the set meanwhile is not disturbed.",
        epilog="example: cdinfer shards delete shards/ leaf/17.jpg && cdinfer shards verify "
        "shards/ --absent leaf/17.jpg",
    )
    actions = parse.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, allow_abbrev=False, help=text, description=text)
        action.add_argument("set", metavar="SET", help="folder of the set")
        action.add_argument("--json", action="store_true", help="print one JSON object")
        return action

    verify = add("verify", "compare all sums and counts, decode everything, name what is damaged")
    verify.add_argument("--absent", nargs="+", default=[], metavar="KEY",
                        help="pictures that must not be there any more")  # fmt: skip
    relabel = add("relabel", "give pictures other classes; no bitstream is rewritten")
    relabel.add_argument("csv", metavar="CSV", help="lines key,class; - reads them from stdin")
    delete = add("delete", "remove pictures; only shards that hold them are rewritten")
    delete.add_argument("keys", nargs="*", metavar="KEY", help="path below the exported folder")
    delete.add_argument("--list", metavar="FILE", help="a key on each line; - reads stdin")
    append = add("append", "export more pictures, as those of the set were exported")
    append.add_argument("src", metavar="SRC", help="what cdinfer export takes")
    append.add_argument("--splits", metavar="NAME", help="use the lists splits/train_NAME.txt ...")
    append.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to encode")
    append.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                        help="what to do with a picture that cannot be read")  # fmt: skip
    for action in (relabel, append):
        action.add_argument("--new-classes", action="store_true", help="let classes be new; they "
                            "come behind those of the set")  # fmt: skip
    merge = add("merge", "copy other sets of the same stream into the set, or all into a new one")
    merge.add_argument("others", nargs="+", metavar="OTHER", help="folder of another set")
    merge.add_argument("-o", "--out", metavar="DST", help="a new folder for all of them")
    return parse


def main(argv: list[str]) -> int:
    """Do it and return the exit status: 1 if ``verify`` finds anything."""
    args = parser().parse_args(argv)
    actions = {
        "verify": _verify, "relabel": _relabel, "delete": _delete, "append": _append,
        "merge": _merge,
    }  # fmt: skip
    try:
        row, lines = actions[args.action](args, Path(args.set))
    except OSError as error:
        raise ValueError(f"{describe(error)}; nothing was changed") from error
    print(
        json.dumps({"set": args.set} | row, ensure_ascii=False) if args.json else "\n".join(lines)
    )
    return 1 if row.get("faults") else 0


Outcome = tuple[dict[str, Any], list[str]]


def _verify(args: argparse.Namespace, root: Path) -> Outcome:
    from cdinfer.data.verify import verify

    with bar("verifying", _samples(root), args.json) as progress:
        report = verify(root, args.absent, progress)
    row = report._asdict() | {"faults": [fault._asdict() for fault in report.faults]}
    lines = []
    for shard, block, key, fault in report.faults:
        parts = [shard, None if block is None else f"block {block}", key and f"'{key}'"]
        lines.append(": ".join(filter(None, [", ".join(filter(None, parts)), fault])))
    lines += [
        f"{name}: left by an interrupted change; the next change removes it"
        for name in report.leftovers
    ]
    what = f"{report.samples} samples in {report.shards} shards of {root}"
    verdict = f"{len(report.faults)} faults" if report.faults else "all as the index says"
    return row, [*lines, f"{what}: {verdict}"]


def _relabel(args: argparse.Namespace, root: Path) -> Outcome:
    from cdinfer.data.edit import relabel

    labels = _read_labels(args.csv)
    with bar("reading labels", _samples(root), args.json) as progress:
        count = relabel(root, labels, args.new_classes, progress)
    return {"relabelled": count}, [f"{count} samples of {root} have another class now"]


def _delete(args: argparse.Namespace, root: Path) -> Outcome:
    from cdinfer.data.edit import delete

    lines = _read_text(args.list).split("\n") if args.list else []  # keys may hold U+2028
    keys = args.keys + [key for line in lines if (key := line.removesuffix("\r"))]
    if not keys:
        raise ValueError("nothing to delete: give keys, or --list FILE")
    with bar("reading keys", _samples(root), args.json) as progress:
        count = delete(root, keys, progress)
    line = f"{count} samples of {root} are gone"
    if count < len(set(keys)):
        line += "; names of others, which were never in it, are gone from its lists"
    return {"deleted": count}, [line]


def _append(args: argparse.Namespace, root: Path) -> Outcome:
    from cdinfer.cli.export import count_left_out, name_left_out
    from cdinfer.data.index import read_index
    from cdinfer.data.merge import append
    from cdinfer.data.sources import find_source

    read_index(root)
    pictures = find_source(args.src, args.splits)
    total = sum(map(len, pictures.splits.values()))
    skip = args.on_error == "skip"
    with bar("encoding", total, args.json) as progress:
        new = append(
            root, pictures, args.new_classes, skip, args.device, lambda split, n: progress(n)
        )
    name_left_out("shards", new, pictures.root)
    count = sum(shard["count"] for split in new["splits"].values() for shard in split)
    left_out = count_left_out(new)
    note = f" ({sum(left_out.values())} left out)" if any(left_out.values()) else ""
    return {"appended": count} | left_out, [f"{count} pictures came to {root}{note}"]


def _merge(args: argparse.Namespace, root: Path) -> Outcome:
    from cdinfer.data.merge import merge

    others = [Path(other) for other in args.others]
    with bar("copying", sum(map(_samples, others)), args.json) as progress:
        count = merge(root, others, Path(args.out) if args.out else None, progress)
    return {"merged": count}, [f"{count} samples came to {args.out or root}"]


def _samples(root: Path) -> int:
    from cdinfer.data.index import read_index

    try:
        return sum(split.samples for split in read_index(root).splits.values())
    except ValueError:
        return 0  # whoever reads it next says why


def _read_labels(name: str) -> dict[str, str]:
    """Read lines ``key,class``; a first one that says so is passed over, and so are empty ones.

    Raises:
        ValueError: naming the line.
    """
    labels: dict[str, str] = {}
    rows = csv.reader(io.StringIO(_read_text(name), newline="\n"), strict=True)
    try:
        for count, row in enumerate(filter(None, rows)):
            if len(row) != 2 or not all(row):
                raise ValueError(f"expected key,class, got {','.join(row)[:80]!r}")
            key, label = row
            if count == 0 and (key, label) == ("key", "class"):
                continue
            if labels.setdefault(key, label) != label:
                raise ValueError(f"'{key}' was {labels[key]} before")
    except csv.Error as error:
        raise ValueError(f"{name}, line {rows.line_num}: expected key,class: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}, line {rows.line_num}: {error}") from error
    if not labels:
        raise ValueError(f"{name} is empty: expected lines key,class")
    return labels


def _read_text(name: str) -> str:
    """Read a file, or stdin."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    return data.decode("utf-8-sig", "surrogateescape")
