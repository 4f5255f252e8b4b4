"""Cells: pieces of work that a table is made of, each done once, killed or not.

    FOLDER/NAME.json     what was done and what came out, written whole when the cell has ended
    FOLDER/NAME/         its files: runs, sets, logs; ``.lock`` while a process works on it

A cell is a list of commands, ``cdinfer``'s or ``python -m MODULE``, one training among them at
most. Commands that ended are not done again; a training that was interrupted goes on from its last
checkpoint. Several processes may share FOLDER: a cell that another one holds is left to it. In
commands ``{out}`` stands for the cell's own folder, ``{NAME}`` for that of another cell, which must
have ended, and ``$NAME`` for an environment variable; records keep them as they stand.

field          of a record
name           of the cell
about          what it is: table, arm, seed, ... as its table says
commands       as typed behind ``cdinfer``, or from ``python`` on
metrics        the fields that its commands printed with ``--json``, the last one's winning
seconds        of the commands, wall clock; of one that was killed, since it was taken up again
cpu_seconds    of the commands, likewise: what a busy machine does not stretch much
git            commit, and whether files differed from it; null without git
hardware       processor, cores, threads, GPU
versions       of Python, torch and cdinfer
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.data.lock import HeldError, locked
from cdinfer.studies import machine
from cdinfer.studies.commands import Commands
from cdinfer.studies.records import Row

#: Seconds between looks at cells that other processes hold.
PATIENCE = 5.0

_PLACE = re.compile(r"\{([\w.-]+)\}")


class Cell(NamedTuple):
    """One piece of work.

    Attributes:
        name: of its record; letters, digits, ``_``, ``-`` and ``.``.
        about: plain JSON values for whoever makes the table.
        commands: each the arguments of ``cdinfer``, or ``python`` and its own.
    """

    name: str
    about: dict[str, Any]
    commands: tuple[tuple[str, ...], ...]

    @property
    def needs(self) -> list[str]:
        """Names of the cells whose files it reads."""
        found = [name for line in self.commands for word in line for name in _PLACE.findall(word)]
        return [name for name in dict.fromkeys(found) if name != "out"]


def read_record(folder: Path, cell: Cell) -> Row | None:
    """Return the record of a cell, if it has ended.

    Raises:
        ValueError: if it is damaged, or that of other commands.
    """
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    try:
        record: Row = json.loads(path.read_bytes())
        commands = record["commands"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"damaged {path}: {error}; delete it to do the cell again") from error
    if commands != [list(line) for line in cell.commands]:
        raise ValueError(
            f"{path} is the record of other commands: delete it and the folder beside it to do "
            "the cell again, or give the cell another name"
        )
    return record


def run(
    cells: Sequence[Cell],
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    jobs: int = 1,
) -> list[Row]:
    """Do every cell that nobody has done, and return all records in order.

    A cell whose command fails is passed over, and so are those that need it.

    Args:
        cells: those that others need among them, in any order.
        folder: of the records; made if missing.
        say: called with a line for each cell that begins, ends or fails.
        jobs: cells to do at a time.

    Raises:
        ValueError: once all else is done, if a command failed, naming its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check(cells)
    work = _Work(cells, folder, say)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work.go) for _ in range(jobs)]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            work.commands.stop()
            raise
    if work.failed:
        name, reason = next(iter(work.failed.items()))
        more = f" ({len(work.failed)} cells failed)" if len(work.failed) > 1 else ""
        raise ValueError(f"{name}: {reason}{more}")
    return [record for cell in cells if (record := read_record(folder, cell))]


def with_needs(chosen: Iterable[Cell], cells: Sequence[Cell]) -> list[Cell]:
    """Return the ``chosen`` of ``cells`` and all that they need, in the order of ``cells``."""
    by_name = {cell.name: cell for cell in cells}
    found, waiting = set[str](), [cell.name for cell in chosen]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += by_name[name].needs
    return [cell for cell in cells if cell.name in found]


def _check(cells: Sequence[Cell]) -> None:
    known = {cell.name for cell in cells}
    for cell in cells:
        if missing := set(cell.needs) - known:
            raise ValueError(f"{cell.name} needs {missing.pop()}, which is not among the cells")
        if sum(line[0] == "train" for line in cell.commands) > 1:
            raise ValueError(f"{cell.name} trains more than once: make a cell of each training")
    try:
        TopologicalSorter({cell.name: cell.needs for cell in cells}).prepare()
    except CycleError as error:
        raise ValueError(
            f"cells that need each other: {', '.join(sorted({*error.args[1]}))}"
        ) from error


class _Work:
    """Cells to do, shared by threads."""

    def __init__(self, cells: Sequence[Cell], folder: Path, say: Callable[[str], None]) -> None:
        self.cells, self.folder, self.say = cells, folder, say
        self.commands = Commands()
        self.failed: dict[str, str] = {}

    def go(self) -> None:
        """Do cells until none is left that could be done."""
        while not self.commands.stopped.is_set():
            left = [cell for cell in self.cells if read_record(self.folder, cell) is None]
            missing = {cell.name for cell in left}
            free = [cell for cell in left if cell.name not in self.failed]
            ready = [cell for cell in free if not missing.intersection(cell.needs)]
            if not ready:
                return
            if not any(self._try(cell) for cell in ready):
                self.commands.stopped.wait(PATIENCE)  # others work on all that could be done

    def _try(self, cell: Cell) -> bool:
        """Do a cell; return false if it is held elsewhere."""
        out = self.folder / cell.name
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(locked(out))
            except HeldError:
                return False
            # since we looked
            if cell.name not in self.failed and read_record(self.folder, cell) is None:
                self.say(f"{cell.name} ...")
                try:
                    record = self._do(cell, out, lock)
                except ValueError as error:
                    self.failed[cell.name] = str(error)
                    self.say(f"{cell.name}: {error}")
                    return True
                text = json.dumps(record, indent=1, sort_keys=True)
                write_atomically(self.folder / f"{cell.name}.json", f"{text}\n".encode())
                self.say(f"{cell.name}: {record['seconds']:.0f} s")
        return True

    def _do(self, cell: Cell, out: Path, lock: int) -> Row:
        metrics: dict[str, Any] = {}
        seconds = cpu_seconds = 0.0
        for number, line in enumerate(cell.commands):
            ended = out / f"command-{number}.json"
            done = json.loads(ended.read_bytes()) if ended.exists() else {}
            if done.get("command") != list(line):
                words = [_expand(word, self.folder, out) for word in line]
                words += _resume(out) if line[0] == "train" else []
                result = self.commands.run(words, out / "log.txt", lock)
                said = result.said.splitlines()
                printed = json.loads(said[-1]) if "--json" in line and said else {}
                # Texts name places of this machine, or stand in the command already.
                printed = {k: v for k, v in printed.items() if not isinstance(v, str)}
                done = result._asdict() | {"command": line, "metrics": printed}
                del done["said"]
                write_atomically(ended, json.dumps(done).encode())
            metrics |= done["metrics"]
            seconds += done["seconds"]
            cpu_seconds += done["cpu_seconds"]
        return {
            "name": cell.name,
            "about": cell.about,
            "commands": [list(line) for line in cell.commands],
            "metrics": metrics,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            **machine.describe(),
        }


def _expand(word: str, folder: Path, out: Path) -> str:
    def place(match: re.Match[str]) -> str:
        return str(out if match[1] == "out" else folder / match[1])

    return os.path.expandvars(_PLACE.sub(place, word))


def _resume(out: Path) -> list[str]:
    found = sorted(out.glob("*/version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    return ["--ckpt_path", str(found[-1])] if found else []
