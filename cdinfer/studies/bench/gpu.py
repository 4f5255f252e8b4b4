"""Training and inference on a GPU: pictures a second, and the CPU cores that keep it busy.

    latents        shards -> symbols -> cResNet-39
    resident       symbols decoded once and kept in RAM or on the GPU -> cResNet-39
    256-px JPEG    webdataset tars, random resized crop -> ResNet-50
    original JPEG  the same from the files as they are
    synthetic      one batch on the GPU, again and again: the ideal of either network

A step is forward, loss, backward and SGD, or forward alone; bf16 on a GPU. An epoch is timed from
its first batch on, so that starting worker processes does not count. One core is the process that
drives the GPU and loads in between; more are that many worker processes. Where no number of cores
tried reaches 95 % of the synthetic speed, the number follows from the speed of one and the case
says so.
"""

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cdinfer.codecs.stored import read_codec
from cdinfer.data.encoding import Plan
from cdinfer.data.export import export
from cdinfer.data.module import DataModule
from cdinfer.data.shards import ShardDataset
from cdinfer.models import Classifier, CResNet, ResNet
from cdinfer.studies.bench import jpeg, jpeg_tars
from cdinfer.studies.bench.pictures import Pictures, crop_side, originals, write_pictures
from cdinfer.studies.bench.rows import counted, timed
from cdinfer.studies.bench.timing import Progress
from cdinfer.studies.records import Row

BENCH = "gpu"
PICTURES = 4096
CODECS = (("cae", 0.33),)

#: Share of the synthetic speed that counts as busy.
BUSY = 0.95

#: JPEG decoders, best first.
DECODERS = ("simplejpeg", "TorchCodec", "Pillow")

Resident = Literal["ram", "gpu"]
Batch = tuple[Tensor, Tensor]


class Feed(NamedTuple):
    """Where batches come from.

    Attributes:
        pixels: whether they are pixels or latents, which decides the network.
        epoch: number of cores -> batches on the device, those of an epoch.
        cores: whether more cores make it faster.
    """

    pixels: bool
    epoch: Callable[[int], Iterable[Batch]]
    cores: bool = True


def run(
    pictures: Pictures,
    codecs: Sequence[Path],
    rounds: int,
    progress: Progress,
    resident: Resident | None = None,
    device: str = "cuda",
    batch_size: int = 128,
    width: float = 1.0,
    cores: Sequence[int] | None = None,
) -> list[Row]:
    """Return pictures a second of latents against JPEG, and cores that each needs.

    Args:
        pictures: of the sets.
        codecs: folders of codecs.
        rounds: epochs of each.
        progress: called with what is being done.
        resident: where to keep decoded symbols, as a third way.
        device: ``cuda``; ``cpu`` for tests.
        batch_size: pictures in a step.
        width: of both networks.
        cores: numbers of cores to try, rising; ``None``: 1, 2, 4, ... as many as there are.

    Raises:
        ValueError: if there is no such device, or an epoch would be one batch.
    """
    check_device(device)
    if len(pictures.items) <= batch_size:
        raise ValueError(
            f"the bench gpu needs more than {batch_size} pictures, a batch, got "
            f"{len(pictures.items)}: give --pictures {PICTURES} and a --data that has them"
        )
    tried = cores or [2**n for n in range((os.cpu_count() or 1).bit_length())]
    with tempfile.TemporaryDirectory(prefix="cdinfer-bench-") as place:
        bench = _Bench(pictures, Path(place), device, batch_size, width, tried)
        return [row for folder in codecs for row in bench.rows(folder, rounds, progress, resident)]


def check_device(device: str = "cuda") -> None:
    """Refuse a device that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the bench gpu needs a CUDA device and there is none here")


class _Bench:
    """What the rows of all codecs share: pictures, tars, networks."""

    def __init__(
        self, pictures: Pictures, place: Path, device: str, batch: int, width: float,
        tried: Sequence[int],
    ) -> None:  # fmt: skip
        self.place, self.device, self.batch = place, device, batch
        self.width, self.tried, self.classes = width, tried, max(2, len(pictures.classes))
        self.side = crop_side(pictures)
        self.images = write_pictures(pictures, place / "pictures")
        self.feeds: dict[str, Feed] = {}
        sets = {"256-px JPEG": self.images, "original JPEG": originals(pictures)}
        for name, images in sets.items():
            if images is not None:
                folder = place / name.replace(" ", "-")
                folder.mkdir()
                tars = jpeg_tars.write_tars(images, folder, min(max(tried), len(pictures.items)))
                self.feeds[name] = Feed(True, partial(self._jpeg, tars))

    def rows(
        self, folder: Path, rounds: int, progress: Progress, resident: Resident | None
    ) -> list[Row]:
        progress(f"{BENCH}: exporting")
        self.codec, root = read_codec(folder), self.place / folder.name
        export(self.images, root, folder, Plan())
        self.codec.to(self.device)
        feeds = {"latents": Feed(False, lambda n: self._shards(root, n)), **self.feeds}
        if resident is not None:
            dataset = ShardDataset(root, "train", None)
            batch = dataset.__getitems__(list(range(len(dataset))))
            where = self.device if resident == "gpu" else "cpu"
            kept = batch["planes"]["y"].to(where), batch["label"].to(where)
            feeds[f"latents resident in {resident}"] = Feed(
                False, lambda n: self._resident(*kept), cores=False
            )
        for pixels in (False, True):
            feeds[_synthetic(pixels)] = Feed(pixels, self._synthetic(pixels), cores=False)
        rows: list[Row] = []
        for mode in ("training", "inference"):
            rows += self._rows(mode, self._measure(mode, feeds, rounds, progress), feeds)
        return rows

    def _measure(
        self, mode: str, feeds: dict[str, Feed], rounds: int, progress: Progress
    ) -> dict[tuple[str, int], list[float]]:
        """Return seconds a picture of (feed, cores), round by round; the first warms up."""
        steps = {pixels: self._make_step(pixels, mode) for pixels in (False, True)}
        times: dict[tuple[str, int], list[float]] = {}
        for number in range(rounds + 1):
            for (name, feed), cores in itertools.product(feeds.items(), self.tried):
                if feed.cores or cores == self.tried[0]:
                    progress(f"{BENCH}: {mode}, {name}, {cores} cores, round {number} of {rounds}")
                    seconds = _epoch(feed.epoch(cores), steps[feed.pixels], self.device)
                    if number:
                        times.setdefault((name, cores), []).append(seconds)
        return times

    def _rows(
        self, mode: str, times: dict[tuple[str, int], list[float]], feeds: dict[str, Feed]
    ) -> list[Row]:
        least, most = self.tried[0], self.tried[-1]
        rows, jpegs = [], [name for name, feed in feeds.items() if feed.cores and feed.pixels]
        ideal = times[_synthetic(False), least]
        ours = {name: feed for name, feed in feeds.items() if name.startswith("latents")}
        for (name, feed), other in itertools.product(ours.items(), jpegs):
            for cores in dict.fromkeys((least, most)):
                mine = times[name, cores if feed.cores else least]
                case = f"{mode}, {self.codec.bpp:g} bpp, {cores} cores, {name} vs {other}"
                rows.append(timed(BENCH, case, "pictures/s", mine, times[other, cores], ideal))
        for other in jpegs:
            (mine_cores, how), (peer_cores, peer_how) = (
                self._cores(name, times, _synthetic(name in jpegs)) for name in ("latents", other)
            )
            case = f"{mode}, {self.codec.bpp:g} bpp, cores for {BUSY:.0%} of synthetic speed, "
            case += f"latents{how} vs {other}{peer_how}"
            rows.append(counted(BENCH, case, "cores", mine_cores, peer_cores, 1))
        return rows

    def _cores(
        self, name: str, times: dict[tuple[str, int], list[float]], synthetic: str
    ) -> tuple[int, str]:
        """Return how many cores keep the device busy, and whether that was estimated."""
        enough = median(times[synthetic, self.tried[0]]) / BUSY
        for cores in self.tried:
            if median(times[name, cores]) <= enough:
                return cores, ""
        one = median(times[name, self.tried[0]]) * self.tried[0]
        return max(math.ceil(one / enough), self.tried[-1] + 1), " (estimated)"

    def _make_step(self, pixels: bool, mode: str) -> Callable[[Batch], object]:
        trunk = (
            ResNet(channels=3, stride=1, sigma=False, width=self.width)
            if pixels
            else CResNet(channels=self.codec.channels, stride=8, sigma=False, width=self.width)
        )
        net = Classifier(trunk, self.classes).to(self.device)
        net.to(memory_format=torch.channels_last)
        net.train(mode == "training")
        optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)
        half = torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu")

        def train(batch: Batch) -> None:
            x, label = batch
            with half:
                loss = F.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), label)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        @torch.inference_mode()
        def infer(batch: Batch) -> Tensor:
            with half:
                logits: Tensor = net(batch[0].contiguous(memory_format=torch.channels_last))
            return logits.argmax(1)

        return train if mode == "training" else infer

    def _shards(self, root: Path, cores: int) -> Iterator[Batch]:
        workers = 0 if cores == 1 else cores
        data = DataModule(str(root), self.batch, self.side, workers=workers, prefetch=0)
        for batch in data.train_dataloader():
            yield self._latents(batch["planes"]["y"], batch["label"])

    def _resident(self, symbols: Tensor, labels: Tensor) -> Iterator[Batch]:
        """Yield random crops of symbols that are all there."""
        device, side = symbols.device, self.side // self.codec.stride
        order, along = torch.randperm(len(symbols), device=device), torch.arange(side).to(device)
        channel = torch.arange(symbols.shape[1], device=device)[:, None, None]
        for chosen in torch.split(order, self.batch):
            top, left = (
                torch.randint(room - side + 1, (len(chosen), 1), device=device) + along
                for room in symbols.shape[-2:]
            )
            crops = symbols[
                chosen[:, None, None, None], channel, top[:, None, :, None], left[:, None, None]
            ]
            yield self._latents(crops, labels[chosen])

    def _latents(self, symbols: Tensor, labels: Tensor) -> Batch:
        y = self.codec.dequantize({"y": symbols.to(self.device, non_blocking=True)}).y
        return y, labels.to(self.device, non_blocking=True)

    def _jpeg(self, tars: Sequence[str], cores: int) -> Iterator[Batch]:
        there = jpeg.installed()
        decode = there[next(name for name in DECODERS if name in there)]
        workers = 0 if cores == 1 else min(cores, len(tars))
        crop = "random resized crop"
        for x, label in jpeg_tars.make_loader(tars, decode, crop, self.side, self.batch, workers):
            yield x.to(self.device, non_blocking=True) / 255, label.to(self.device)

    def _synthetic(self, pixels: bool) -> Callable[[int], Iterable[Batch]]:
        """Return as many batches as an epoch has, all the same."""
        side = self.side if pixels else self.side // self.codec.stride
        x = torch.rand(self.batch, 3 if pixels else self.codec.channels, side, side)
        batch = x.to(self.device), torch.zeros(self.batch, dtype=torch.long, device=self.device)
        epoch = max(2, len(self.images.splits["train"]) // self.batch)
        return lambda cores: itertools.repeat(batch, epoch)


def _synthetic(pixels: bool) -> str:
    return f"synthetic {'pixels' if pixels else 'latents'}"


def _epoch(batches: Iterable[Batch], step: Callable[[Batch], object], device: str) -> float:
    """Return seconds a picture, from the end of the first step on."""
    seen, start = 0, 0.0
    for number, batch in enumerate(batches):
        step(batch)
        if number:
            seen += len(batch[1])
        else:
            _wait(device)
            start = time.perf_counter()
    _wait(device)
    assert seen, "an epoch needs two batches or more"
    return (time.perf_counter() - start) / seen


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
