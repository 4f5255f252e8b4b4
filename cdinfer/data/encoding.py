"""One shard: a fixed list of pictures -> its files and its entry in the index.

    read, resize (a thread) --> g_a (the caller) --> code (a thread) --> blocks --> tars
    masks ------ the same ------------------------> PNG ---------------> beside the labels

The networks take nearly all of the time; what is around them happens meanwhile where there is a
second core. What comes out depends on the list alone, whoever makes it and beside what.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cdinfer.codecs import CAE
from cdinfer.codecs.cae import Precision
from cdinfer.codecs.guard import measure
from cdinfer.data.images import ImageError, as_tensor, read_image, resize_short_side
from cdinfer.data.layout import Item, Source
from cdinfer.data.mask_blocks import to_png
from cdinfer.data.masks import Mask, Masks, read_mask, resize_mask
from cdinfer.data.roundtrip import check_shard, digest
from cdinfer.data.writer import Encoded, Made, cut_blocks, pack_shard

#: Most pictures, and most pixels, that are encoded at once.
BATCH, BATCH_PIXELS = 16, 2**22

#: Batches that may wait for the coder.
WAITING = 2


class Plan(NamedTuple):
    """What fixes every byte of a set, besides the pictures and the codec.

    Attributes:
        resize: short side in pixels to scale pictures to, or ``None``.
        block: bitstreams in a block; 1 writes one sample a key, for other readers.
        per_shard: pictures in a shard.
        precision: of the encoder.
        min_psnr: pictures whose reconstruction is worse are listed; in dB.
        drop: leave them out.
    """

    resize: int | None = None
    block: int = 512
    per_shard: int = 8192
    precision: Precision = "fp32"
    min_psnr: float | None = None
    drop: bool = False


class Work(NamedTuple):
    """What the shards of an export have in common.

    Attributes:
        root: of the pictures, for errors.
        source: what reads them.
        num_classes: how many classes they have; 0 if they have none.
        codec: folder of the trained codec.
        plan: how the set is cut.
        device: where to encode.
        skip: leave out pictures that cannot be read instead of stopping.
        verify: decode what was made, and compare.
        masks: what their masks have in common, where classes are those of pixels.
    """

    root: Path
    source: Source
    num_classes: int
    codec: Path
    plan: Plan
    device: str
    skip: bool
    verify: bool
    masks: Masks | None = None


class Job(NamedTuple):
    """A shard to make: its name, as ``train-00000``, and its pictures in order."""

    name: str
    items: list[Item]

    @property
    def split(self) -> str:
        return self.name.rpartition("-")[0]


class Unreadable(NamedTuple):
    """A picture that was left out, and why."""

    key: str
    reason: str


class Poor(NamedTuple):
    """A picture below the floor, and its PSNR in dB."""

    key: str
    psnr: float


class Loaded(NamedTuple):
    """A picture ``(3, H, W)`` uint8, ready to be encoded, the bytes of its file, and its mask."""

    item: Item
    x: Tensor
    bytes: int
    mask: Mask | None


def prepare(codec: CAE, work: Work) -> CAE:
    """Return the codec where and as it is wanted."""
    codec = codec.to(work.device)
    codec.precision = work.plan.precision
    return codec


def make_shard(codec: CAE, work: Work, job: Job, progress: Callable[[int], None]) -> Made:
    """Encode the pictures of one shard.

    Args:
        codec: from :func:`prepare`.
        work: what all shards share.
        job: the shard.
        progress: called with the number of pictures just encoded, or left out.

    Raises:
        ValueError: if a picture cannot be read, or what was made does not decode.
    """
    skipped: list[Unreadable] = []
    encoded: list[Encoded] = []
    below: list[Poor] = []
    sizes: dict[str, int] = {}
    digests: dict[str, bytes] = {}
    batches = read_batches(work, job.items, skipped)
    coding: deque[Future[list[Encoded]]] = deque()

    def code(batch: list[Loaded], symbols: Tensor) -> list[Encoded]:
        if work.verify:
            for picture, plane in zip(batch, symbols.numpy(), strict=True):
                digests[picture.item.key] = digest(plane, picture.mask)
        height, width = batch[0].x.shape[-2:]
        files = codec.pack(symbols, (height, width))
        latents = (symbols.shape[-2], symbols.shape[-1])
        masks = [b"" if picture.mask is None else to_png(picture.mask) for picture in batch]
        return [
            Encoded(picture.item, file, latents, mask)
            for picture, file, mask in zip(batch, files, masks, strict=True)
        ]

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as coder:
        ahead = reader.submit(next, batches, None)
        while batch := ahead.result():
            ahead = reader.submit(next, batches, None)
            sizes |= {picture.item.key: picture.bytes for picture in batch}
            x = torch.stack([picture.x for picture in batch])
            symbols = codec.symbols(x.to(codec.mean.device)).cpu()
            coding.append(coder.submit(code, batch, symbols))
            if work.plan.min_psnr is not None:
                encoded += _judge(codec, x, coding.popleft().result(), work.plan, below)
            elif len(coding) > WAITING:
                encoded += coding.popleft().result()
            progress(len(batch))
        for waiting in coding:
            encoded += waiting.result()
    progress(len(skipped))
    made = pack_shard(job.name, encoded, work.plan.block, work.num_classes > 0, work.masks)
    if work.verify:
        check_shard(codec, made, cut_blocks(encoded, work.plan.block), digests)
    made.entry["source_bytes"] = sum(sizes[one.item.key] for one in encoded)
    made.entry["skipped"] = [list(item) for item in skipped]
    made.entry["below"] = [list(item) for item in below]
    return made


def read_batches(
    work: Work, items: Sequence[Item], skipped: list[Unreadable]
) -> Iterator[list[Loaded]]:
    """Read ``items`` in order, in batches of neighbours of one size."""
    batch: list[Loaded] = []
    for item in items:
        try:
            one = _fetch(work, item)
        except ValueError as error:
            if not work.skip:
                raise ValueError(
                    f"{work.root / item.key}: {error}; --on-error skip leaves such pictures out"
                ) from error
            skipped.append(Unreadable(item.key, str(error)))
            continue
        room = max(1, min(BATCH, BATCH_PIXELS // (one.x.shape[-2] * one.x.shape[-1])))
        if batch and (one.x.shape != batch[0].x.shape or len(batch) == room):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _fetch(work: Work, item: Item) -> Loaded:
    """Return a picture as the networks get it, and its mask."""
    try:
        data = work.source.fetch(item)
        picture = data if isinstance(data, np.ndarray) else read_image(data)
        if isinstance(data, Path):
            size = data.stat().st_size
        else:
            size = data.nbytes if isinstance(data, np.ndarray) else len(data)
        mask = None if work.masks is None else _fetch_mask(work, item, picture.shape)
        if work.plan.resize is not None:
            picture = resize_short_side(picture, work.plan.resize)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error
    except ImageError as error:
        raise ValueError(error.reason) from error
    if mask is not None:
        mask = resize_mask(mask, (picture.shape[0], picture.shape[1]))
    return Loaded(item, as_tensor(picture), size, mask)


def _fetch_mask(work: Work, item: Item, shape: tuple[int, ...]) -> Mask:
    """Return the mask of a picture of ``shape``, which was not resized yet."""
    assert work.masks is not None
    path = work.root / item.mask
    try:
        return read_mask(path, work.masks, work.num_classes, (shape[0], shape[1]))
    except ImageError as error:  # as for pictures, a reason says nothing of where the set lies
        message = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"its mask {item.mask}: {message}") from error


def _judge(
    codec: CAE, x: Tensor, encoded: list[Encoded], plan: Plan, below: list[Poor]
) -> list[Encoded]:
    """Add pictures below the floor to ``below``; return those to keep."""
    assert plan.min_psnr is not None
    scores = measure(codec, x, [one.file for one in encoded])
    poor = [score < plan.min_psnr for score in scores]
    below += [
        Poor(one.item.key, round(score, 3))
        for one, score, is_poor in zip(encoded, scores, poor, strict=True)
        if is_poor
    ]
    if plan.drop:
        return [one for one, is_poor in zip(encoded, poor, strict=True) if not is_poor]
    return encoded
