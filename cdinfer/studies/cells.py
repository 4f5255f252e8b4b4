"""Cells: pieces of work that a table is made of, each done once, killed or not.

    FOLDER/NAME.json     what was done and what came out, written whole when the cell has ended
    FOLDER/NAME/         its files: runs, sets, logs; ``.lock`` while a process works on it

A cell is a list of ``cdinfer`` commands, one training among them at most. Commands that ended are
not done again; a training that was interrupted goes on from its last checkpoint. Several processes
may share FOLDER: a cell that another one holds is left to it. In commands ``{out}`` stands for the
cell's own folder, ``{NAME}`` for that of another cell, which must have ended, and ``$NAME`` for an
environment variable; records keep them as they stand.

field          of a record
name           of the cell
about          what it is: table, arm, seed, ... as its table says
commands       as typed behind ``cdinfer``
metrics        the fields that its commands printed with ``--json``, the last one's winning
seconds        of the commands, wall clock; of one that was killed, since it was taken up again
git            commit, and whether files differed from it; null without git
hardware       processor, cores, threads, GPU
versions       of Python, torch and cdinfer
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from cdinfer import __version__
from cdinfer.bitstream.atomic import write_atomically
from cdinfer.data.lock import HeldError, locked
from cdinfer.studies.records import Row

#: Seconds between looks at cells that other processes hold.
PATIENCE = 5.0

#: What a command ends with that was asked to stop.
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)

_PLACE = re.compile(r"\{([\w.-]+)\}")


class Cell(NamedTuple):
    """One piece of work.

    Attributes:
        name: of its record; letters, digits, ``_``, ``-`` and ``.``.
        about: plain JSON values for whoever makes the table.
        commands: arguments of ``cdinfer``, each a list.
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
    cells: Sequence[Cell], folder: Path, say: Callable[[str], None] = lambda line: None
) -> list[Row]:
    """Do every cell that nobody has done, and return all records in order.

    Args:
        cells: those that others need among them, in any order.
        folder: of the records; made if missing.
        say: called with a line for each cell that begins or ends.

    Raises:
        ValueError: if a command fails, naming its log; other cells' records stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check(cells)
    while left := [cell for cell in cells if read_record(folder, cell) is None]:
        waiting = {cell.name for cell in left}
        ready = [cell for cell in left if not waiting.intersection(cell.needs)]
        if not ready:
            raise ValueError(f"cells that need each other: {', '.join(sorted(waiting))}")
        done = [cell for cell in ready if _try(cell, folder, say)]
        if not done:
            time.sleep(PATIENCE)  # others work on all that could be done
    return [record for cell in cells if (record := read_record(folder, cell))]


def _check(cells: Sequence[Cell]) -> None:
    known = {cell.name for cell in cells}
    for cell in cells:
        if missing := set(cell.needs) - known:
            raise ValueError(f"{cell.name} needs {missing.pop()}, which is not among the cells")
        if sum(line[0] == "train" for line in cell.commands) > 1:
            raise ValueError(f"{cell.name} trains more than once: make a cell of each training")


def _try(cell: Cell, folder: Path, say: Callable[[str], None]) -> bool:
    """Do a cell; return false if another process holds it."""
    out = folder / cell.name
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(out))
        except HeldError:
            return False
        if read_record(folder, cell) is None:  # since we looked
            say(f"{cell.name} ...")
            record = _do(cell, folder, out, lock)
            text = json.dumps(record, indent=1, sort_keys=True)
            write_atomically(folder / f"{cell.name}.json", f"{text}\n".encode())
            say(f"{cell.name}: {record['seconds']:.0f} s")
    return True


def _do(cell: Cell, folder: Path, out: Path, lock: int) -> Row:
    metrics: dict[str, Any] = {}
    seconds = 0.0
    for number, line in enumerate(cell.commands):
        ended = out / f"command-{number}.json"
        done = json.loads(ended.read_bytes()) if ended.exists() else {}
        if done.get("command") != list(line):
            words = [_expand(word, folder, out) for word in line]
            words += _resume(out) if line[0] == "train" else []
            start = time.monotonic()
            said = _call(cell.name, words, out / "log.txt", lock).splitlines()
            printed = json.loads(said[-1]) if "--json" in line and said else {}
            # Texts name places of this machine, or stand in the command already.
            printed = {k: v for k, v in printed.items() if not isinstance(v, str)}
            done = {"command": line, "seconds": time.monotonic() - start, "metrics": printed}
            write_atomically(ended, json.dumps(done).encode())
        metrics |= done["metrics"]
        seconds += done["seconds"]
    return {
        "name": cell.name,
        "about": cell.about,
        "commands": [list(line) for line in cell.commands],
        "metrics": metrics,
        "seconds": round(seconds, 1),
        "git": _git(),
        "hardware": _hardware(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cdinfer": __version__,
        },
    }


def _call(name: str, words: list[str], log: Path, lock: int) -> str:
    """Run a command, which holds the lock as well, and return what it prints.

    Raises:
        KeyboardInterrupt: if it was asked to stop.
        ValueError: if it fails.
    """
    with log.open("ab") as file:
        status, said = _wait([sys.executable, "-m", "cdinfer", *words], file, lock)
        file.write(said)
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        lines = log.read_text("utf-8", "replace").splitlines()
        raise ValueError(
            f"{name}: cdinfer {words[0]} ended with status {status}: "
            f"{lines[-1] if lines else 'no output'} (all of it: {log})"
        )
    return said.decode("utf-8", "replace")


def _wait(command: list[str], log: IO[bytes], lock: int) -> tuple[int, bytes]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, pass_fds=(lock,)) as process:
        said, _ = process.communicate()
    return process.returncode, said


def _expand(word: str, folder: Path, out: Path) -> str:
    def place(match: re.Match[str]) -> str:
        return str(out if match[1] == "out" else folder / match[1])

    return os.path.expandvars(_PLACE.sub(place, word))


def _resume(out: Path) -> list[str]:
    found = sorted(out.glob("*/version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    return ["--ckpt_path", str(found[-1])] if found else []


def _git() -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        place = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=place, capture_output=True, check=True, text=True
        ).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"processor": _processor(), "cores": os.cpu_count(), "threads": threads, "gpu": gpu}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
