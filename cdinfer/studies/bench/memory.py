"""Memory: the most that a process holds while it classifies, segments or trains, in MiB.

    ours    latents -> cResNet-39, our segmenter, cResNet-51-d with ASPP
    peers   decoded pictures, JPEG -> ResNet-50, ResNet-50-d with ASPP

Each is a process of its own that reads files, builds what it needs, works once (trains two steps)
and ends; torch in fp32, one thread. The ideal is a process that imports the same and does nothing.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cdinfer.codecs import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import fronts, jpeg, masks
from cdinfer.studies.bench.contest import Entry, prepare_all
from cdinfer.studies.bench.fronts import Front, Size
from cdinfer.studies.bench.pictures import Pictures, crop_side
from cdinfer.studies.bench.rows import counted
from cdinfer.studies.bench.steps import make_step
from cdinfer.studies.bench.timing import Progress
from cdinfer.studies.networks import SEGMENTERS, build_classifier, build_segmenter
from cdinfer.studies.records import Row

BENCH = "memory"
PICTURES = 32
CODECS = (("cae", 0.33),)

#: Names of the fronts of peers.
PEERS = ("decoded", "JPEG")


class Case(NamedTuple):
    """Something to do, and who does it.

    Attributes:
        kind: ``class``, ``mask`` or ``train``.
        ours: names of networks on latents.
        peer: of a network on pixels.
        batch: files at once.
        size: height and width of pictures; ``None`` for the centre of those given.
        classes: of the answers.
        width: factor on the networks' channels.
    """

    kind: str
    ours: tuple[str, ...]
    peer: str
    batch: int
    size: Size | None = None
    classes: int = 1000
    width: float = 1.0

    @property
    def title(self) -> str:
        """What rows say of it."""
        parts = ["a training step" if self.kind == "train" else f"bytes to {self.kind}"]
        if self.size is not None:
            parts.append(masks.name(self.size))
        parts.append(f"batch {self.batch}")
        if self.kind == "train":
            parts.append(f"width {self.width:g}")
        return ", ".join(parts)


CASES = (
    *(Case("class", ("cResNet-39",), "ResNet-50", batch) for batch in (1, 16)),
    *(
        Case("mask", masks.NETWORKS, masks.PEER, 1, size, classes)
        for size, classes in (((360, 480), 21), ((1024, 2048), 19))
    ),
    *(Case("train", ("cResNet-39",), "ResNet-50", 32, width=width) for width in (1.0, 0.25)),
)


def run(
    pictures: Pictures,
    codecs: Sequence[Path],
    rounds: int,
    progress: Progress,
    cases: Sequence[Case] = CASES,
) -> list[Row]:
    """Return the memory of each of ours against each peer.

    Args:
        pictures: in files; of cases with a size the first, scaled to it.
        codecs: folders of the codecs of ours.
        rounds: not used: memory hardly varies.
        progress: called with what is being done.
        cases: what to do.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="cdinfer-bench-") as place:
        idle = _ask({})
        for folder in codecs:
            codec = read_codec(folder)
            for number, case in enumerate(cases):
                what = f"{case.title}, {codec.name} {codec.bpp:g}"
                progress(f"{BENCH}: {what}: encoding pictures")
                job = _prepare(case, pictures, codec, Path(place, folder.name, str(number)))
                job["codec"] = str(folder)
                entries = [(case.peer, front) for front in PEERS]
                entries += [(name, "latents") for name in case.ours]
                taken = {}
                for network, front in entries:
                    progress(f"{BENCH}: {what}: {network} on {front}")
                    taken[network, front] = _ask({**job, "network": network, "front": front})
                for name in case.ours:
                    for front in PEERS:
                        text = f"{what}, {name} on latents vs {case.peer} on {front}"
                        ours, peer = taken[name, "latents"], taken[case.peer, front]
                        rows.append(counted(BENCH, text, "MiB", ours, peer, idle))
    return rows


def work() -> None:
    """Do the job that stands on stdin; print the most memory that this process ever held, in MiB.

    A job is empty or holds what ``_prepare`` returns, ``codec``, ``network`` and ``front``.
    """
    job = json.load(sys.stdin)
    torch.set_num_threads(1)
    if job:
        _do(**job)
    sys.stdout.write(f"{_peak()}")


def _prepare(case: Case, pictures: Pictures, codec: CAE, folder: Path) -> dict[str, Any]:
    """Write the files of a case and return what its processes have to know."""
    chosen, size = pictures.pixels[: case.batch], case.size
    if size is not None:
        chosen = [masks.scale(picture, size) for picture in chosen]
    files = {"cdi": fronts.write_cdi(codec, chosen), "jpg": [jpeg.encode(p) for p in chosen]}
    folder.mkdir(parents=True)
    for kind, some in files.items():
        for number, data in enumerate(some):
            (folder / f"{number:03}.{kind}").write_bytes(data)
    side = crop_side(pictures)
    return {
        "folder": str(folder),
        "size": size or (side, side),
        "classes": case.classes,
        "width": case.width,
        "train": case.kind == "train",
    }


def _do(
    folder: str, size: Size, classes: int, width: float, train: bool, codec: str, network: str,
    front: str,
) -> None:  # fmt: skip
    suffix = "jpg" if front == "JPEG" else "cdi"
    files = [path.read_bytes() for path in sorted(Path(folder).glob(f"*.{suffix}"))]
    way = _front(front, codec, files, size)
    shape = way.shape[0], 8
    if network in SEGMENTERS:
        net = build_segmenter(network, shape, classes, width)
        entry = Entry(way, network, net, 0, partial(net.choose, size=size))
    else:
        classifier = build_classifier(network, shape, classes, width=width)
        entry = Entry(way, network, classifier, 0, lambda logits: logits.argmax(1))
    if train:
        step = make_step(way, entry.net, "fp32")
        step(files)
        step(files)
    else:
        (answer,) = prepare_all([entry], "torch", "fp32").values()
        answer(files)


def _front(name: str, codec: str, files: Sequence[bytes], size: Size) -> Front:
    if name == "JPEG":
        return fronts.from_jpeg(files, size)[-1]
    loaded = read_codec(Path(codec))
    latents = fronts.from_latents(loaded, files, size)
    return latents if name == "latents" else fronts.decoded(loaded, latents)


def _ask(job: dict[str, Any]) -> float:
    """Return what `work` prints in a process of its own."""
    line = [sys.executable, "-c", f"from {__name__} import work; work()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        line, env=environment, input=json.dumps(job), capture_output=True, text=True
    )
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        raise ValueError(f"the bench memory: {job.get('network')} on {job.get('front')}: {why}")
    return float(ran.stdout)


def _peak() -> float:
    """Return this process's peak in MiB; Linux's ``ru_maxrss`` knows that of its parent, too."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [s for s in status.read_text().splitlines() if s.startswith("VmHWM")]
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
