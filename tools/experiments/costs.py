"""What is done of a plan, and how long the rest may take, from what finished cells took."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from cdinfer.studies.cells import Cell, read_record
from cdinfer.studies.demo_table import table
from cdinfer.studies.records import Row
from tools.experiments.keep import standing


def report(cells: Sequence[Cell], folder: Path, kept: Sequence[Row], jobs: int) -> str:
    """Return a table with a line for all seeds of an arm and rate, and the sum.

    Args:
        cells: of the plan.
        folder: with the records of what is done.
        kept: records of earlier runs, whose cells are not done again.
        jobs: cells at a time.
    """
    there = standing(cells, kept)
    records = {cell.name: read_record(folder, cell) or there.get(cell.name) for cell in cells}
    known = [*kept, *filter(None, records.values())]
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_group(cell.about), []).append(cell)
    rows, left, total, unknown = [], 0, 0.0, 0
    for name, members in groups.items():
        to_do = sum(records[cell.name] is None for cell in members)
        each = _seconds(members[0], known)
        left += to_do
        total += to_do * (each or 0.0)
        unknown += to_do if each is None else 0
        done = f"{len(members) - to_do} of {len(members)}"
        rows.append([name, done, "?" if each is None else f"{each:.0f}"])
    more = f", and {unknown} of unknown cost" if unknown else ""
    return "\n".join(
        [
            table(["cells", "done", "seconds each"], rows),
            "",
            f"{left} of {len(cells)} cells to do: about {total / jobs / 60:.0f} minutes with "
            f"{jobs} at a time{more}",
        ]
    )


def _group(about: Row) -> str:
    kind = about.get("arm") or about["kind"]
    return kind if about["bpp"] is None else f"{kind}-{about['bpp']:g}"


def _seconds(cell: Cell, known: Sequence[Row]) -> float | None:
    """Return what cells like this one took: of its arm and rate, else of its arm."""
    mine = _group(cell.about)
    same = [r["seconds"] for r in known if _group(r["about"]) == mine]
    kind = [
        r["seconds"]
        for r in known
        if all(r["about"].get(f) == cell.about.get(f) for f in ("arm", "kind"))
    ]
    found = same or kind
    return statistics.fmean(found) if found else None
