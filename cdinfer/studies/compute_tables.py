"""Rows of ``compute.run`` and ``tradeoff.run`` as CSV files, curves, and Markdown for a person."""

import re
from collections.abc import Sequence
from pathlib import Path

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.studies.records import Row
from cdinfer.studies.report import Columns, draw_front, markdown, number, write_csv

COSTS: Columns = [
    ("name", lambda row: row["name"]),
    ("task", lambda row: row["task"]),
    ("GMAC", number("gmac", ".3f")),
    ("M parameters", number("mparam", ".2f")),
    ("ms", number("ms", ".1f")),
]

PARTS: Columns = [
    *COSTS,
    ("head, GMAC", number("head_gmac", ".3f")),
    ("head, M parameters", number("head_mparam", ".2f")),
]

BREAK_EVEN: Columns = [
    ("network on latents", lambda row: row["network"]),
    ("task", lambda row: row["task"]),
    ("encoder", lambda row: row["encoder"]),
    ("against", lambda row: row["rival"]),
    ("passes, by MACs", number("passes_gmac", "d")),
    ("passes, by time", number("passes_ms", "d")),
]

ACCURACY: Columns = [
    ("data", lambda row: row["data"]),
    ("arm", lambda row: row["arm"]),
    ("bpp", number("bpp", "g")),
    ("score", number("score", ".2%")),
    ("of", lambda row: row["metric"]),
    ("seeds", number("seeds", "d")),
    ("GMAC", number("gmac", ".4f")),
    ("unbeaten", lambda row: "yes" if row["best_by_gmac"] else None),
    ("bytes a picture", number("bytes", ",.0f")),
    ("unbeaten", lambda row: "yes" if row["best_by_bytes"] else None),
]

#: Cost -> what it is.
AXES = {"gmac": "GMAC for a training crop, decoder and all", "bytes": "bytes a picture, as stored"}

#: Table -> its title and columns.
TABLES: dict[str, tuple[str, Columns]] = {
    "parts": ("Every part by itself", PARTS),
    "paths": ("From stored bytes to an answer", COSTS),
    "break_even": ("Looks at a picture until encoding it has paid; a dash: never", BREAK_EVEN),
    "accuracy": ("Accuracy, and what it costs; unbeaten: nothing is as good for less", ACCURACY),
}


def text(rows: Sequence[Row]) -> str:
    """Return all tables that have rows, in Markdown."""
    parts = []
    for name, chosen in _tables(rows).items():
        title, columns = TABLES[name]
        parts.append(f"## {title}\n\n{markdown(chosen, columns)}")
    return "\n\n".join(parts)


def write(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``compute.md``, a CSV file for each table, and curves of accuracy over its costs."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = _tables(rows)
    for name, chosen in tables.items():
        write_csv(
            folder / f"{name}.csv", [{k: v for k, v in r.items() if k != "table"} for r in chosen]
        )
    write_atomically(folder / "compute.md", f"{text(rows)}\n".encode())
    accuracy = tables.get("accuracy", [])
    for data in dict.fromkeys(row["data"] for row in accuracy):
        for cost, label in AXES.items():
            known = [row for row in accuracy if row["data"] == data and row[cost] is not None]
            if known:
                points = [_point(row, cost) for row in known]
                svg = draw_front(points, label, f"{known[0]['metric']}, %")
                name = re.sub(r"[^a-z0-9.]+", "-", f"accuracy-{cost}-{data}".lower())
                write_atomically(folder / f"{name}.svg", svg)


def _tables(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found = {name: [row for row in rows if row["table"] == name] for name in TABLES}
    return {name: chosen for name, chosen in found.items() if chosen}


def _point(row: Row, cost: str) -> tuple[str, float, float, bool]:
    name = row["arm"] if row["bpp"] is None else f"{row['arm']} {row['bpp']:g}"
    return name, row[cost], 100 * row["score"], row[f"best_by_{cost}"]
