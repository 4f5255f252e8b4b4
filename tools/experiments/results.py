"""Committed records -> the tables of RESULTS.md, each between its markers.

    <!-- table: NAME -->      NAME is that of a file in tools/records
    ...
    <!-- end -->

A file is a list of the records of an experiment (``keep.py``), or one object about measurements
that were made once (`_measured`), such as those made before experiments had cells. Nothing
between markers is written by hand: a test makes every table again.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from cdinfer.studies.demo_table import table as draw
from cdinfer.studies.paired import SEEDS, Difference
from cdinfer.studies.records import Row
from tools.experiments import keep
from tools.experiments.arms import ARMS, TABLES
from tools.experiments.summary import Key, Summary, summarise

_BLOCK = re.compile(
    r"^( *)(<!-- table: ([\w.-]+) -->\n).*?( *<!-- end -->)$", re.DOTALL | re.MULTILINE
)


def fill(text: str, folder: Path = keep.RECORDS) -> str:
    """Return a page with its tables made anew.

    Raises:
        ValueError: if a marker names no records, or the marker of a table's end is missing.
    """
    if text.count("<!-- table: ") != len(_BLOCK.findall(text)):
        raise ValueError("expected <!-- end --> after every <!-- table: NAME -->")

    def block(found: re.Match[str]) -> str:
        space, start, name, end = found.groups()
        return f"{space}{start}{indent(make(name, folder), space)}{end}"

    return _BLOCK.sub(block, text)


def make(name: str, folder: Path = keep.RECORDS) -> str:
    """Return the table of a file of records, with a line break at its end.

    Raises:
        ValueError: if there are no such records, and no experiment of that name to be run.
    """
    file = folder / f"{name}.json"
    if file.exists():
        made = json.loads(file.read_bytes())
        single = isinstance(made, dict)
        return f"{_measured(made) if single else _experiment(keep.read(file))}\n"
    planned = [f"{table}-{preset}" for table in TABLES for preset in TABLES[table].presets]
    if name not in planned:
        known = ", ".join(sorted({path.stem for path in folder.glob("*.json")}.union(planned)))
        raise ValueError(f"no records for the marker of table '{name}' (there are: {known})")
    return "Not run yet.\n"


def _measured(made: Row) -> str:
    """Return a table of measurements that were made once.

    Args:
        made: ``columns``, each a title and the format of its cells, as ``{:.2f}``; ``rows`` of
            values, of which a list fills several places; and in words ``command``, ``data``,
            ``seed`` and ``hardware``.
    """
    forms = [form for _, form in made["columns"]]
    texts = [[_show(v, form) for v, form in zip(row, forms, strict=True)] for row in made["rows"]]
    return draw([title for title, _ in made["columns"]], texts)


def _show(value: Any, form: str) -> str:  # noqa: ANN401
    if isinstance(value, str):  # what has no number says why
        return value
    return form.format(*value) if isinstance(value, list) else form.format(value)


def _experiment(records: Sequence[Row]) -> str:
    about = records[0]["about"]
    table, preset = TABLES[about["table"]], about["preset"]
    size, summary = table.presets[preset], summarise(records)
    seeds = sorted({record["about"]["seed"] for record in records if "seed" in record["about"]})
    resized = f"resized to {size.resize}, " if size.resize else ""
    parts = [
        f"**{table.title}, {table.what}** (`$CDINFER_TEST_DATA/{table.data}`, {resized}crops of "
        f"{size.crop}, {size.epochs} epochs, width {size.width:g}; preset `{preset}`): mean ± "
        f"standard deviation over seeds {', '.join(map(str, seeds))}.",
        _scores(summary),
        f"Differences in points, paired by seed, with 95 % bootstrap intervals; bold: from at "
        f"least {SEEDS} seeds, and the interval excludes 0.",
        _differences(summary),
        "What a training and its test cost (MMAC: the network on one training crop, codecs not "
        "counted). Every arm has the same epochs, batches, optimiser and crops; networks on pixels "
        "also see mirrored pictures, those on latents do not.",
        _budget(summary),
        f"`python -m tools.experiments run {about['table']} --preset {preset}`; every command is "
        f"in `tools/records/{about['table']}-{preset}.json`. {_machine(records)}.",
    ]
    return "\n\n".join(parts)


def _scores(summary: Summary) -> str:
    rates, names = _rates(summary), list(dict.fromkeys(name for name, _ in summary.scores))
    rows = [[ARMS[name].title, *(_score(summary, (name, r)) for r in rates)] for name in names]
    for name in ("latents", "webp", "original"):
        if name in names:
            sizes = [summary.bytes.get((name, rate)) for rate in rates]
            label = f"bytes a picture, {ARMS[name].title.partition(',')[0]}"
            rows.append([label, *("" if size is None else f"{size:,.0f}" for size in sizes)])
    return draw(["arm", *map(_rate, rates)], rows)


def _score(summary: Summary, key: Key) -> str:
    if key not in summary.scores:
        return ""
    mean, deviation, _ = summary.scores[key]
    return f"{mean:.2f} ± {deviation:.2f}"


def _differences(summary: Summary) -> str:
    compared = {ours[1] for ours, _ in summary.differences}
    rates = [rate for rate in _rates(summary) if rate in compared]
    rows = []
    for ours, theirs in dict.fromkeys((a[0], b[0]) for a, b in summary.differences):
        found = [
            summary.differences.get(
                ((ours, rate), (theirs, None if theirs == "original" else rate))
            )
            for rate in rates
        ]
        rows.append([f"{ours} - {theirs}", *map(_difference, found)])
    return draw(["difference", *map(_rate, rates)], rows)


def _difference(found: Difference | None) -> str:
    if found is None:
        return ""
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"**{text}**" if found.claimed else text


def _budget(summary: Summary) -> str:
    rows = [
        [
            ARMS[name].title,
            f"{cost.macs / 1e6:,.1f}",
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.steps:,} x {cost.batch}",
            f"{cost.cpu_seconds:.0f}",
        ]
        for name, cost in summary.costs.items()
    ]
    return draw(["arm", "MMAC", "parameters, M", "steps x batch", "CPU s"], rows)


def _machine(records: Sequence[Row]) -> str:
    """Say on what the records were made; where they differ, everything."""
    hardware = [record["hardware"] for record in records]
    machines = [
        f"{h['gpu'] or h['processor']}, {h['cores']} cores, "
        f"{h['threads'] or 'as many'} thread(s) a process"
        for h in hardware
    ]
    versions = [
        f"torch {r['versions']['torch']}, Python {r['versions']['python']}" for r in records
    ]
    commits = [
        "no git" if r["git"] is None else r["git"]["commit"][:10] + " changed" * r["git"]["dirty"]
        for r in records
    ]
    return "; ".join(", ".join(dict.fromkeys(found)) for found in (machines, versions, commits))


def _rates(summary: Summary) -> list[float | None]:
    """Return the rates there are, the originals' last."""
    found = {rate for _, rate in summary.scores}
    return sorted(found, key=lambda rate: (rate is None, rate))


def _rate(rate: float | None) -> str:
    return "originals" if rate is None else f"{rate:g} bpp"
