"""Steps of work that are done once and found again.

    FOLDER/step.json    {"key": ..., "seconds": null until the step is finished}

The key says what determines a step's result; a step whose key has changed, or that was
interrupted, is done anew. A folder that holds anything and no ``step.json`` is somebody else's
and never touched.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cdinfer.bitstream.atomic import write_atomically

MARKER = "step.json"

#: Parts of the package that cannot change what a step makes.
TELLERS = ("cli", "studies")


class Done(NamedTuple):
    """A finished step: how long it took, and whether an earlier run did it."""

    seconds: float
    kept: bool


def once(folder: Path, key: str, work: Callable[[], None]) -> Done:
    """Let ``work`` fill ``folder``, unless it was filled before under the same key.

    Raises:
        ValueError: if ``folder`` is not a step's.
    """
    marker = folder / MARKER
    if marker.is_file():
        said: dict[str, Any] = json.loads(marker.read_bytes())
        if said["key"] == key and said["seconds"] is not None:
            return Done(said["seconds"], kept=True)
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"'{folder}' is in the way and not the demo's: give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, json.dumps({"key": key, "seconds": None}).encode())
    start = time.perf_counter()
    work()
    seconds = round(time.perf_counter() - start, 1)
    write_atomically(marker, json.dumps({"key": key, "seconds": seconds}).encode())
    return Done(seconds, kept=False)


def make_key(command: list[str], *reads: Path) -> str:
    """Return the key of a command that reads these files and folders, run by today's code.

    Studies and commands only tell about results, so their code is left out.
    """
    package = Path(__file__).parents[1]
    code = [
        p for p in sorted(package.rglob("*.py")) if p.relative_to(package).parts[0] not in TELLERS
    ]
    digest = hashlib.sha256(json.dumps([command, torch.__version__]).encode())
    for root in (*reads, *code):
        files = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file()]
        for path in sorted(files):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()
