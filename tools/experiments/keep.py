"""Records of finished cells <-> tools/records/TABLE-PRESET.json: a list of them, one a line.

What is kept there is not done again, on whatever machine a table goes on.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.studies.cells import Cell, read_record, with_needs
from cdinfer.studies.records import Row

#: Where committed records are.
RECORDS = Path(__file__).parents[1] / "records"


def keep(cells: Sequence[Cell], folder: Path, file: Path) -> int:
    """Put the records in ``folder`` into ``file``, in the place of older ones of the same cells.

    Args:
        cells: those of the table; records of others in ``file`` stay.
        folder: of a run.
        file: one of ``RECORDS``.

    Returns:
        How many records there are in ``file``.

    Raises:
        ValueError: if a record names a place of this machine, or ``file`` is damaged.
    """
    kept = {record["name"]: record for record in read(file)}
    for cell in cells:
        if record := read_record(folder, cell):
            check(record, folder)
            kept[cell.name] = record
    lines = [json.dumps(kept[name], sort_keys=True) for name in sorted(kept)]
    write_atomically(file, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
    return len(kept)


def restore(cells: Sequence[Cell], folder: Path, file: Path) -> list[Cell]:
    """Put the records in ``file`` back into ``folder``, and return the cells that are still to do.

    Those whose files another cell needs are done again if that one is: only records are kept.

    Args:
        cells: those of the table.
        folder: of a run; made if missing.
        file: one of ``RECORDS``.

    Raises:
        ValueError: if a record is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in standing(cells, read(file)).items():
        path = folder / f"{name}.json"
        if not path.exists():
            write_atomically(path, f"{json.dumps(record, indent=1, sort_keys=True)}\n".encode())
    needed = {name for cell in cells for name in cell.needs}
    left = [cell for cell in cells if cell.name not in needed and not read_record(folder, cell)]
    return with_needs(left, cells)


def standing(cells: Sequence[Cell], records: Sequence[Row]) -> dict[str, Row]:
    """Return the kept records that stand for cells: of those whose files no other one needs."""
    needed = {name for cell in cells for name in cell.needs}
    ends = {c.name: [list(line) for line in c.commands] for c in cells if c.name not in needed}
    return {r["name"]: r for r in records if ends.get(r["name"]) == r["commands"]}


def read(file: Path) -> list[Row]:
    """Return the records of an experiment, none if there is no such file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        records: list[Row] = json.loads(file.read_bytes()) if file.exists() else []
        if not all(isinstance(record["name"], str) for record in records):
            raise TypeError("a name is no text")
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"damaged {file}: {error}; take it from git again") from error
    return records


def check(record: Row, folder: Path) -> None:
    """Refuse what only this machine has: its paths.

    Raises:
        ValueError: naming the first.
    """
    for text in _texts(record):
        if text.startswith(("/", "~")) or str(folder.resolve()) in text:
            raise ValueError(
                f"the record of {record['name']} names a place of this machine, '{text}': give "
                "the command $CDINFER_TEST_DATA or {out} instead"
            )


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (key, *_texts(part))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
