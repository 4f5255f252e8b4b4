"""Cells: pieces of work that a table is made of, each done once, killed or not.

    FOLDER/NAME.json     what was done and what came out, written whole when the cell has ended
    FOLDER/NAME/         its files: runs, sets, logs; ``.lock`` while a process works on it

A cell is a list of ``cdinfer`` commands. A training that was interrupted goes on from its last
checkpoint. Several processes may share FOLDER: a cell that another one holds is left to it. In
commands ``{out}`` stands for the cell's own folder, ``{NAME}`` for that of another cell, which
must have ended, and ``$NAME`` for an environment variable; records keep them as they stand.

field          of a record
name           of the cell
about          what it is: table, arm, seed, ... as its table says
commands       as typed behind ``cdinfer``
metrics        the fields that its commands printed with ``--json``, the last one's winning
seconds        of the commands that ended, wall clock
git            commit, and whether files differed from it
hardware       processor, cores, threads, GPU
versions       of Python, torch and cdinfer
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cdinfer import __version__
from cdinfer.bitstream.atomic import write_atomically
from cdinfer.data.lock import locked
from cdinfer.studies.records import Row

#: Seconds between looks at cells that other processes hold.
PATIENCE = 5.0

#: Lines of a failed command's output that are shown.
TAIL = 15

_PLACE = re.compile(r"\{([\w.-]+)\}")


class Cell(NamedTuple):
    """One piece of work.

    Attributes:
        name: of its record; letters, digits, ``_``, ``-`` and ``.``.
        about: plain JSON values for whoever makes the table.
        commands: arguments of ``cdinfer``, each a list.
        minutes: expected cost, for plans.
    """

    name: str
    about: dict[str, Any]
    commands: tuple[tuple[str, ...], ...]
    minutes: float = 1.0

    @property
    def needs(self) -> list[str]:
        """Names of the cells whose files it reads."""
        found = [name for line in self.commands for word in line for name in _PLACE.findall(word)]
        return [name for name in dict.fromkeys(found) if name != "out"]


def read_record(folder: Path, name: str) -> Row | None:
    """Return the record of a cell that has ended.

    Raises:
        ValueError: if it is damaged.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        if not {"name", "about", "metrics", "seconds"} <= record.keys():
            raise ValueError("not the record of a cell")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"damaged {path}: {error}; delete it to do the cell again") from error
    return dict(record)


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
    known = {cell.name for cell in cells}
    for cell in cells:
        if missing := set(cell.needs) - known:
            raise ValueError(f"{cell.name} needs {missing.pop()}, which is not among the cells")
    while left := [cell for cell in cells if read_record(folder, cell.name) is None]:
        ready = [c for c in left if all(read_record(folder, name) for name in c.needs)]
        if not ready:
            raise ValueError(f"cells that need each other: {', '.join(c.name for c in left)}")
        done = [cell for cell in ready if _try(cell, folder, say)]
        if not done:  # others work on all that could be done
            time.sleep(PATIENCE)
    return [record for cell in cells if (record := read_record(folder, cell.name))]


def _try(cell: Cell, folder: Path, say: Callable[[str], None]) -> bool:
    """Do a cell; return false if another process holds it."""
    out = folder / cell.name
    try:
        with locked(out):
            if read_record(folder, cell.name) is None:  # since we looked
                say(f"{cell.name} ...")
                record = _do(cell, folder, out)
                text = json.dumps(record, indent=1, sort_keys=True)
                write_atomically(folder / f"{cell.name}.json", f"{text}\n".encode())
                say(f"{cell.name}: {record['seconds']:.0f} s")
    except ValueError as error:
        if "another cdinfer" in str(error):
            return False
        raise
    return True


def _do(cell: Cell, folder: Path, out: Path) -> Row:
    metrics: dict[str, Any] = {}
    start = time.monotonic()
    with (out / "log.txt").open("ab") as log:
        for number, line in enumerate(cell.commands):
            ended = out / f"command-{number}.json"  # not done again after a kill
            if ended.exists():
                metrics |= json.loads(ended.read_bytes())
                continue
            words = [_expand(word, folder, out) for word in line]
            if line[0] == "train":
                words += _resume(out)
            said = _call(cell.name, words, log)
            printed = json.loads(said.splitlines()[-1]) if "--json" in line else {}
            write_atomically(ended, json.dumps(printed).encode())
            metrics |= printed
    return {
        "name": cell.name,
        "about": cell.about,
        "commands": [list(line) for line in cell.commands],
        "metrics": _plain(metrics),
        "seconds": round(time.monotonic() - start, 1),
        "git": _git(),
        "hardware": _hardware(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cdinfer": __version__,
        },
    }


def _call(name: str, words: list[str], log: Any) -> str:  # noqa: ANN401
    command = [sys.executable, "-m", "cdinfer", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        said = process.stdout.read()
    log.write(said)
    log.flush()
    if process.returncode == 130 or process.returncode < 0:
        raise KeyboardInterrupt
    if process.returncode:
        tail = Path(log.name).read_text("utf-8", "replace").splitlines()[-TAIL:]
        raise ValueError(
            f"{name}: cdinfer {words[0]} ended with status {process.returncode}: "
            f"{tail[-1] if tail else 'no output'} (all of it: {log.name})"
        )
    return said.decode("utf-8", "replace")


def _expand(word: str, folder: Path, out: Path) -> str:
    def place(match: re.Match[str]) -> str:
        return str(out if match[1] == "out" else folder / match[1])

    return os.path.expandvars(_PLACE.sub(place, word))


def _resume(out: Path) -> list[str]:
    found = sorted(out.glob("*/version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    return ["--ckpt_path", str(found[-1])] if found else []


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """Leave out what names places of this machine."""
    return {k: v for k, v in metrics.items() if not isinstance(v, str)}


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True)
        return done.stdout.decode().strip()

    return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}


def _hardware() -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = os.environ.get("OMP_NUM_THREADS")
    processor = names[0] if names else platform.processor()
    return {"processor": processor, "cores": os.cpu_count(), "threads": threads, "gpu": gpu}


def _cpuinfo() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    return iter(path.read_text().splitlines() if path.exists() else [])
