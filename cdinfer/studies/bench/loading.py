"""Loading: samples a second from files on disk to training batches, in one process.

    ours    shards -> `DataModule`: uint8 symbols, cropped at random
    peers   webdataset tars of the same pictures as JPEG -> uint8 pixels, cropped at random
    ideal   symbols that lie in memory -> the same batches

Every loader runs whole epochs, its files in the page cache, and is looked at before it is timed:
ours has to give the symbols the codec made, peers the pictures Pillow sees. The thread that reads
ahead is timed by the wall clock, with and without a consumer that works; all else by CPU time.
"""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdinfer.codecs.stored import read_codec
from cdinfer.data.encoding import Plan
from cdinfer.data.export import export
from cdinfer.data.images import as_tensor, read_image
from cdinfer.data.layout import ImageSet
from cdinfer.data.module import DataModule
from cdinfer.data.shards import ShardDataset
from cdinfer.studies.bench import jpeg, jpeg_tars
from cdinfer.studies.bench.pictures import Pictures, crop_side, write_pictures
from cdinfer.studies.bench.rows import against, timed
from cdinfer.studies.bench.timing import Progress, Times, Work, interleave
from cdinfer.studies.records import Row

BENCH = "loading"
PICTURES = 512
CODECS = (("cae-lite", 0.0983), ("cae-lite", 0.33), ("cae-lite", 0.635))

BATCH = 32

#: Batches that the prefetch thread is ahead.
AHEAD = 2

#: Largest mean difference of two JPEG decoders, in levels of 255: their filters differ.
LEVELS = 4.0


def run(pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress) -> list[Row]:
    """Return samples a second of every rate against every JPEG pipeline.

    Args:
        pictures: of the sets.
        codecs: folders of the codecs that make ours.
        rounds: epochs of each loader.
        progress: called with what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="cdinfer-bench-") as place:
        return _bench(pictures, codecs, rounds, progress, Path(place))


def _bench(
    pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress, place: Path
) -> list[Row]:
    images = write_pictures(pictures, place / "pictures")
    side = crop_side(pictures)
    works: dict[str, Work] = {}
    for name, loader in _jpeg_loaders(images, place, side).items():
        works[name] = Work(_drain(loader), partial(_drain, loader))
    ours = []
    for number, folder in enumerate(codecs):
        codec = read_codec(folder)
        name = f"{codec.name} {codec.bpp:g}"
        progress(f"{BENCH}: exporting at {codec.bpp:g} bpp")
        export(images, place / str(number), folder, Plan())
        symbols = _checked(place / str(number), images)
        step = 0.0
        for prefetch in (0, AHEAD):
            data = DataModule(str(place / str(number)), BATCH, side, workers=0, prefetch=prefetch)
            loader = data.train_dataloader()
            count, title = _drain(loader), f"{name}, {prefetch} ahead"
            start = time.perf_counter()
            works[title] = Work(_drain(loader), partial(_drain, loader))
            step = step or (time.perf_counter() - start) * BATCH / count
            works[f"{title}, steps"] = Work(count, partial(_drain, loader, step))
        works[f"{name}, memory"] = Work(len(symbols), _Memory(symbols, side // codec.stride))
        ours.append(name)
    times = interleave(works, rounds, lambda title: progress(f"{BENCH}: {title}"))
    return [row for name in ours for row in _rows(name, times)]


def _rows(name: str, times: dict[str, Times]) -> list[Row]:
    unit, there = "pictures/s", jpeg.installed()
    mine, floor, rows = times[f"{name}, 0 ahead"].cpu, times[f"{name}, memory"], []
    for crop in jpeg_tars.CROPS:
        for decoder in jpeg.DECODERS:
            theirs = times[f"{decoder}, {crop}"].cpu if decoder in there else None
            case = against(name, f"JPEG, {crop}, {decoder}", decoder in there)
            rows.append(timed(BENCH, case, unit, mine, theirs, floor.cpu))
        best = min(there, key=lambda decoder: float(np.median(times[f"{decoder}, {crop}"].cpu)))
        case = f"{name} vs JPEG, {crop}, the fastest ({best})"
        rows.append(timed(BENCH, case, unit, mine, times[f"{best}, {crop}"].cpu, floor.cpu))
    for kind, text in (("", ""), (", steps", ", beside steps that take as long")):
        ours, peer = (times[f"{name}, {ahead} ahead{kind}"].wall for ahead in (AHEAD, 0))
        case = f"{name} with a prefetch thread vs without{text}, wall time"
        rows.append(timed(BENCH, case, unit, ours, peer, None if kind else floor.wall))
    return rows


def _jpeg_loaders(images: ImageSet, place: Path, side: int) -> dict[str, Any]:
    """Return a loader for each decoder and crop, the decoders looked at."""
    tars, loaders = jpeg_tars.write_tars(images, place), {}
    path = images.root / images.splits["train"][0].key
    expected = read_image(path).astype(int)
    for name, decode in jpeg.installed().items():
        difference = abs(jpeg.as_array(decode(path.read_bytes())) - expected).mean()
        assert difference < LEVELS, f"{name} decodes another picture: {difference} levels off"
        for crop in jpeg_tars.CROPS:
            loaders[f"{name}, {crop}"] = jpeg_tars.make_loader(tars, decode, crop, side, BATCH)
    return loaders


def _checked(root: Path, images: ImageSet) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return all symbols of a set, looked at: they are those of its pictures."""
    dataset = ShardDataset(root, "train", None)
    batch = dataset.__getitems__(list(range(len(dataset))))
    symbols = batch["planes"]["y"]
    picture = as_tensor(read_image(images.root / dataset.keys()[0]))
    same = (dataset.codec.symbols(picture[None])[0] == symbols[0]).float().mean().item()
    # In another batch, a float may round to the other side.
    assert same > 0.999, f"the shards give other symbols than the codec: {same:.2%} are the same"
    return np.asarray(symbols.numpy())


class _Memory:
    """Batches of random crops of symbols in memory: what no reader of files can beat."""

    def __init__(self, symbols: np.ndarray[Any, np.dtype[np.uint8]], side: int) -> None:
        self.symbols, self.side, self.rng = symbols, side, np.random.default_rng(0)

    def __call__(self) -> None:
        order, side = self.rng.permutation(len(self.symbols)), self.side
        rooms = [length - side + 1 for length in self.symbols.shape[-2:]]
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            tops, lefts = (self.rng.integers(room, size=len(chosen)).tolist() for room in rooms)
            torch.from_numpy(
                np.stack(
                    [
                        self.symbols[i, :, top : top + side, left : left + side]
                        for i, top, left in zip(chosen, tops, lefts, strict=True)
                    ]
                )
            )


def _drain(loader: Any, step: float = 0.0) -> int:  # noqa: ANN401
    """Run an epoch, with ``step`` seconds of work on each batch, and count its samples."""
    samples, matrix = 0, torch.zeros(256, 256)
    for batch in loader:
        end = time.perf_counter() + step
        while time.perf_counter() < end:
            torch.mm(matrix, matrix)  # without Python's global lock, as training is
        samples += len(batch["label"] if isinstance(batch, dict) else batch[1])
    return samples
