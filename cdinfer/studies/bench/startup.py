"""Whole processes: ``cdinfer --help`` and ``cdinfer encode one.jpg``.

The ideal of the first is a Python that does nothing, of the second one that imports torch and
numba, which encoding cannot do without. numba's compiled functions are in its cache, as they are
from the second process on.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cdinfer.bitstream.container import parse
from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench.pictures import Pictures, write_pictures
from cdinfer.studies.bench.rows import timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.records import Row

BENCH = "startup"
PICTURES = 1
CODECS = (("cae", 0.33),)


def run(pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress) -> list[Row]:
    """Return seconds from start to end.

    Args:
        pictures: the first is encoded.
        codecs: folders of codecs.
        rounds: processes of each kind.
        progress: called with what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="cdinfer-bench-") as place:
        images = write_pictures(pictures, Path(place, "pictures"))
        jpeg = images.root / images.splits["train"][0].key
        cdi = Path(place, "one.cdi")
        ideals = {"cdinfer --help": ["-c", "pass"]}
        commands = {"cdinfer --help": ["-m", "cdinfer", "--help"]}
        for folder in codecs:
            codec = read_codec(folder)
            case = f"cdinfer encode one.jpg, {codec.name} {codec.bpp:g}"
            ideals[case] = ["-c", "import torch, numba"]
            flags = ["--codec", str(folder), "-o", str(cdi), "--overwrite"]
            commands[case] = ["-m", "cdinfer", "encode", str(jpeg), *flags]
        works = {case: _process(arguments) for case, arguments in commands.items()}
        works |= {f"{case}, ideal": _process(arguments) for case, arguments in ideals.items()}
        times = interleave(works, rounds, lambda title: progress(f"{BENCH}: {title}"))
        if codecs:
            parse(cdi.read_bytes())  # it raises unless that is a whole file
    rows = []
    for case in commands:
        mine, floor = times[case], times[f"{case}, ideal"]
        rows.append(timed(BENCH, f"{case}, wall time", "s", mine.wall, None, floor.wall))
        rows.append(timed(BENCH, f"{case}, CPU time", "s", mine.cpu, None, floor.cpu))
    return rows


def _process(arguments: list[str]) -> Work:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def work() -> None:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ran.returncode:
            why = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
            raise ValueError(f"'{' '.join(arguments)}' failed: {why}")

    return Work(1, work)
