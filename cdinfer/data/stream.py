"""Sets of latents read where they lie: s3://, https://, pipe: and every other URL of ``remote.py``.

    index.json, codec/ --fetched and checked first--> what there is, and where
    shards --dealt--> blocks --buffer, shuffled--> samples --one decoding call--> batches

Every block must lie where the index says and hold what it says, and every bitstream must meet its
checksum: an epoch is whole or ends in an error. A broken connection is taken up again first.

An epoch of *training*:

- shards in an order of (seed, epoch); the samples of all shards, one after the other, are cut
  evenly among processes and then workers, inside a shard where need be (``deal.py``);
- every process gets ``ceil(samples / (batch_size * world))`` batches, all whole. Over all
  processes each sample comes once, and fewer than ``batch_size * world`` of them twice: as from
  map-style shards, however few shards there are;
- samples are mixed within a buffer of ``buffer``, no more: write smaller shards (``per_shard`` of
  an export), whose order changes, where few processes read a set;
- (seed, epoch, rank, world, workers, batch_size, buffer) fix every batch and its place. Crops are
  functions of (seed, epoch, sample) alone: those of map-style shards.

*Validation* and test: every sample exactly once over processes and workers, in order, crops
centred. Shares differ by at most one sample and may be empty; nothing waits for other processes.
"""

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import webdataset
from torch.utils.data import IterableDataset, get_worker_info

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.remote import DELAYS, shown
from cdinfer.codecs.zoo import fetch_codec
from cdinfer.data.batches import Batcher
from cdinfer.data.deal import Share, pieces, shuffled, train_span, whole_span
from cdinfer.data.index import Index
from cdinfer.data.reader import Damage, read_set_codec
from cdinfer.data.remote_shards import RemoteShards, Sample, fetch_index

#: Most bytes of compressed samples in the buffer.
MAX_BUFFER = 2**28

#: Damaged samples that one batch may skip.
MAX_DAMAGED = 1000


class StreamDataset(IterableDataset[dict[str, Any]]):
    """The batches of one process, ``len()`` of them, as `ShardDataset` makes them.

    Load it with `StreamLoader`, or ``DataLoader(..., batch_size=None)``; workers share the batches.

    Args:
        url: of the set.
        split: ``train``, ``val`` or ``test``.
        crop: side of the crop in pixels, a multiple of the stride where latents are cropped;
            ``None`` takes all.
        crop_latents: crop the planes; otherwise ``crop (B, 4)`` says what to cut after decoding.
        batch_size: samples in a batch of this process.
        train: epochs of training as described above; otherwise each sample once, in order.
        seed: of order and crops.
        rank, world: number of this process and of all.
        buffer: samples that are mixed in training.
        on_error: what to do with a damaged block or file: ``stop`` raises, naming it; ``skip``
            warns and goes on, in training with the next sample of the order. What cannot be
            *had* is never skipped.
        index: of ``url``, if it was fetched already.
        delays: seconds to wait before each new try of a broken connection.
        whole: batches of one sample, uncropped, which may have any size.

    Raises:
        ValueError: if the set cannot be had, is damaged or does not fit ``crop``.
    """

    def __init__(
        self,
        url: str,
        split: str,
        crop: int | None,
        crop_latents: bool = True,
        batch_size: int = 32,
        train: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        buffer: int = 4096,
        on_error: Literal["stop", "skip"] = "stop",
        index: Index | None = None,
        delays: tuple[float, ...] = DELAYS,
        whole: bool = False,
    ) -> None:
        assert not whole or (crop is None and batch_size == 1)
        index, name = index or fetch_index(url, delays), shown(url)
        self.source = RemoteShards(url, index, split, self._damaged, delays)
        self.name, self.split, self.batch_size, self.train = name, split, batch_size, train
        self.seed, self.rank, self.world, self.on_error = seed, rank, world, on_error
        self.epoch = self._skip = 0
        codec = read_set_codec(fetch_codec(url, delays), index, name)
        entries = [entry for shard in self.source.shards for entry in shard.blocks]
        self.samples = sum(entry.samples for entry in entries)
        self.batcher = Batcher(name, codec, crop, crop_latents, seed, whole, index)
        self.batcher.check_latents({entry[-2:] for entry in entries})
        total = sum(entry.length for entry in entries)
        total += sum(length for shard in self.source.shards for _, length in shard.masks)
        self.buffer = max(1, min(buffer, MAX_BUFFER * self.samples // max(total, 1)))

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        first, last = self._span(Share(self.rank, self.world))
        return -(-(last - first) // self.batch_size)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch that the next iteration gives, without its first ``skip`` batches.

        With as many workers as before, the rest is exactly what it would have been. What is left
        out is read, but not decoded.
        """
        self.epoch, self._skip = epoch, skip

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        worker = (worker + self._skip) % workers  # the loader asks its first worker first
        share = Share(self.rank, self.world, worker, workers)
        first, last = self._span(share)
        skip = len(range(worker, self._skip, workers)) * self.batch_size
        stages: list[Any] = [lambda: self._read(first, last)]
        if self.train:
            rng = random.Random(f"{self.seed} {self.epoch} {share}")
            stages.append(webdataset.shuffle(self.buffer, initial=self.buffer, rng=rng))
        samples: Iterator[Sample] = iter(webdataset.DataPipeline(*stages))
        if self.train:
            samples = chain(samples, self._read_on(last))
        samples = islice(samples, min(skip, last - first), None)
        for start in range(first + skip, last, self.batch_size):
            batch = list(islice(samples, min(self.batch_size, last - start)))
            if batch and (decoded := self._batch(batch, samples)):
                yield decoded

    def _span(self, share: Share) -> tuple[int, int]:
        if not self.samples:
            return 0, 0
        span = train_span if self.train else whole_span
        return span(self.samples, self.batch_size, share)

    def _read(self, first: int, last: int) -> Iterator[Sample]:
        """Yield the samples at places ``first`` to ``last`` of the epoch's order."""
        order: Sequence[int] = range(len(self.source.shards))
        if self.train:
            order = shuffled(len(order), self.seed, self.epoch)
        for piece in pieces(self.source.counts, order, first, last):
            yield from self.source.read(piece)

    def _read_on(self, first: int) -> Iterator[Sample]:
        """Yield what comes after the end of a share, in place of what was skipped in it."""
        found = True
        while found:
            found = False
            for sample in self._read(first, first + self.samples):
                found = True
                yield sample
        raise ValueError(f"every {self.split} sample of '{self.name}' is damaged")

    def _batch(self, samples: list[Sample], more: Iterator[Sample]) -> dict[str, Any] | None:
        """Decode a batch; in training, ``more`` gives a sample for each that is damaged."""
        for _ in range(MAX_DAMAGED):
            if not samples:
                return None
            try:
                return self._decode(samples)
            except BitstreamError as error:
                bad = samples.pop(error.index or 0)
                message = f"damaged block {bad.where}, key '{bad.key}': {error}"
                self._damaged(Damage(message, range(bad.number, bad.number + 1)))
            if self.train:
                samples.append(next(more))
        raise ValueError(f"{MAX_DAMAGED} damaged samples at once; the last: {message}")

    def _decode(self, samples: list[Sample]) -> dict[str, Any]:
        columns = [np.array([s[i] for s in samples], np.int64) for i in range(3)]
        numbers, labels, sizes = columns
        if self.batcher.sizes_matter:
            self.batcher.check_sizes({sample.size for sample in samples})
        return self.batcher.batch(
            lambda place, k: replace(samples[place].file, index=k),
            [sample.shape for sample in samples],
            sizes,
            labels,
            np.full(len(samples), self.epoch if self.train else -1),
            numbers,
            [sample.mask for sample in samples],
        )

    def _damaged(self, error: Damage) -> None:
        if self.on_error == "stop":
            raise error
        count = "a sample" if len(error.samples) == 1 else f"{len(error.samples)} samples"
        warnings.warn(f"skipped {count} of {self.split}: {error}", stacklevel=3)
