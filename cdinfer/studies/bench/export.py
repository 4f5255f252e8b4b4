"""Export: JPEG files -> shards, over what the encoder itself needs for the same pictures.

    over the encoder    time of `data.export.export` over that of ``codec.g_a`` alone, given the
                        same batches, decoded and normalised before; ideal: 1
    pictures/s          of both

Each round exports into a new folder and ends with everything written and synced.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from cdinfer.codecs import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.data.encoding import BATCH, Plan
from cdinfer.data.export import export
from cdinfer.data.images import as_tensor, read_image
from cdinfer.data.layout import ImageSet
from cdinfer.data.shards import ShardDataset
from cdinfer.studies.bench.pictures import Pictures, write_pictures
from cdinfer.studies.bench.rows import counted, timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.records import Row

BENCH = "export"
PICTURES = 128
CODECS = (("cae", 0.33), ("cae-lite", 0.33))


def run(pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress) -> list[Row]:
    """Return how much longer an export takes than its encoder.

    Args:
        pictures: to export.
        codecs: folders of codecs.
        rounds: exports with each codec.
        progress: called with what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="cdinfer-bench-") as place:
        images = write_pictures(pictures, Path(place, "pictures"))
        rows = []
        for folder in codecs:
            rows += _bench(images, folder, rounds, progress, Path(place, folder.name))
        return rows


def _bench(
    images: ImageSet, folder: Path, rounds: int, progress: Progress, place: Path
) -> list[Row]:
    codec, count = read_codec(folder), len(images.splits["train"])
    name, batches = f"{codec.name} {codec.bpp:g}", _normalised(codec, images)
    exports: list[Path] = []

    def whole() -> None:
        exports.append(place / str(len(exports)))
        export(images, exports[-1], folder, Plan())

    @torch.inference_mode()
    def encoder() -> None:
        for x in batches:
            codec.g_a(x)

    works = {f"{name}, export": Work(count, whole), f"{name}, encoder": Work(count, encoder)}
    times = interleave(works, rounds, lambda title: progress(f"{BENCH}: {title}"))
    mine, floor = (times[work] for work in works)
    held = [len(ShardDataset(path, "train", None)) for path in exports]
    assert set(held) == {count}, f"exported {count} pictures and found {held}"
    rows = []
    for clock in ("wall", "cpu"):
        ours, least = getattr(mine, clock), getattr(floor, clock)
        text = "wall time" if clock == "wall" else "CPU time"
        over = median([a / b for a, b in zip(ours, least, strict=True)])
        rows.append(counted(BENCH, f"{name}, {text}", "over the encoder", over, None, 1.0))
        case = f"{name}, {text}, vs the encoder alone"
        rows.append(timed(BENCH, case, "pictures/s", ours, least, least))
    return rows


def _normalised(codec: CAE, images: ImageSet) -> list[torch.Tensor]:
    """Return what the encoder's network reads, in the batches and the layout of an export."""
    paths = [images.root / item.key for item in images.splits["train"]]
    batches = []
    for start in range(0, len(paths), BATCH):
        x = torch.stack([as_tensor(read_image(path)) for path in paths[start : start + BATCH]])
        batches.append((x.to(codec.mean) / 255 - codec.mean) / codec.std)
    return batches
