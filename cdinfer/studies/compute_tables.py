"""Rows of ``compute.run`` as tables: CSV files, and Markdown for a person."""

from collections.abc import Sequence
from pathlib import Path

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.studies.records import Row
from cdinfer.studies.report import Columns, markdown, number, write_csv

COSTS: Columns = [
    ("name", lambda row: row["name"]),
    ("task", lambda row: row["task"]),
    ("GMAC", number("gmac", ".3f")),
    ("M parameters", number("mparam", ".2f")),
    ("ms", number("ms", ".1f")),
]

BREAK_EVEN: Columns = [
    ("network on latents", lambda row: row["network"]),
    ("task", lambda row: row["task"]),
    ("encoder", lambda row: row["encoder"]),
    ("against", lambda row: row["rival"]),
    ("passes, by MACs", number("passes_gmac", "d")),
    ("passes, by time", number("passes_ms", "d")),
]

#: Table -> its title and columns.
TABLES: dict[str, tuple[str, Columns]] = {
    "parts": ("Every part by itself", COSTS),
    "paths": ("From stored bytes to an answer", COSTS),
    "break_even": ("Looks at a picture until encoding it has paid; a dash: never", BREAK_EVEN),
}


def text(rows: Sequence[Row]) -> str:
    """Return all tables in Markdown."""
    parts = []
    for name, (title, columns) in TABLES.items():
        chosen = [row for row in rows if row["table"] == name]
        parts.append(f"## {title}\n\n{markdown(chosen, columns)}")
    return "\n\n".join(parts)


def write(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``compute.md`` and a CSV file for each table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        chosen = [row for row in rows if row["table"] == name]
        write_csv(
            folder / f"{name}.csv", [{k: v for k, v in r.items() if k != "table"} for r in chosen]
        )
    write_atomically(folder / "compute.md", f"{text(rows)}\n".encode())
