"""What people give to ``predict`` -> what networks read.

    picture  --resize, encode------> latents --centre crop--> x (1, C, h, w)
    x.cdi    --entropy-decode------> latents -------^         (input: latents; never pixels)

Networks that answer for every pixel see whole inputs, others the centre that validation saw.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdinfer.bitstream.container import parse
from cdinfer.codecs import LatentCodec
from cdinfer.data.images import find_images, from_tensor, read_image, resize_short_side, to_tensor
from cdinfer.data.layout import is_shards
from cdinfer.metrics import round_to_8_bits

if TYPE_CHECKING:
    from cdinfer.data.shards import ShardDataset

#: Most inputs, and most pixels, that a network sees at once.
BATCH, BATCH_PIXELS = 32, 2**21

#: Called with the name of an input and why it cannot be used.
OnError = Callable[[str, Exception], None]

Answer = TypeVar("Answer")


class Sample(NamedTuple):
    """One input as the network reads it.

    Attributes:
        file: what to call it.
        x: ``(1, C, h, w)``, latents or pixels.
        seen: height and width in pixels of what ``x`` holds.
        size: height and width of the input itself, before it was resized or cut.
        picture: returns the input to look at, ``(H, W, 3)`` of that size: the picture itself, or
            what the codec makes of the bits.
    """

    file: str
    x: Tensor
    seen: tuple[int, int]
    size: tuple[int, int]
    picture: Callable[[], NDArray[np.uint8]]


class Source(NamedTuple):
    """One input that nobody has read yet.

    Attributes:
        file: what to call it.
        place: its path below the folder or set that was given.
        load: reads it.
    """

    file: str
    place: Path
    load: Callable[[], Sample]


class Inputs:
    """Reads what a network was trained to read.

    Args:
        codec: the codec whose latents or reconstructions the network reads; ``None`` for originals.
        reads: ``latents``, ``decoded`` or ``original``.
        resize: short side that pictures are scaled to first; ``None`` for none.
        crop: side of the centre to cut, in pixels; ``None`` for all.
        device: where networks run.
    """

    def __init__(
        self,
        codec: LatentCodec | None,
        reads: str,
        resize: int | None,
        crop: int | None,
        device: str,
    ) -> None:
        self.codec = None if codec is None else codec.to(device)
        self.reads, self.resize, self.crop, self.device = reads, resize, crop, device

    @property
    def channels(self) -> int:
        """Channels of what the network reads."""
        return 3 if self.codec is None or self.reads == "decoded" else self.codec.channels

    def answer(
        self,
        inputs: Iterable[str | Path | Source],
        work: Callable[[list[Sample]], Iterable[Answer]],
        on_error: OnError | None,
    ) -> Iterator[Answer]:
        """Yield what ``work`` makes of the inputs, in order.

        Args:
            inputs: files, folders, sets, or what :meth:`find` found in them.
            work: what to do with inputs of one size.
            on_error: called for inputs that cannot be read, which are then left out; without it
                the error is raised.

        Raises:
            ValueError: if an input is missing, damaged, too large, or another codec's.
        """
        for batch in _in_batches(self._read(self.find(inputs, on_error), on_error)):
            try:
                yield from work(batch)
            except (MemoryError, RuntimeError) as error:
                if not _lacks_memory(error):
                    raise
                for sample in batch:
                    _refuse(sample.file, MemoryError("not enough memory for its size"), on_error)

    def find(
        self, inputs: Iterable[str | Path | Source], on_error: OnError | None = None
    ) -> Iterator[Source]:
        """List ``.cdi`` files and pictures, those of folders and of sets of shards, in order.

        Raises:
            ValueError: as :meth:`answer`, if a folder or set cannot be read.
        """
        for given in inputs:
            if isinstance(given, Source):
                yield given
                continue
            try:
                found = self._find(Path(given))
            except (ValueError, OSError) as error:
                _refuse(str(given), error, on_error)
                continue
            yield from found

    def _find(self, path: Path) -> Iterable[Source]:
        if is_shards(path):
            return self._find_in_shards(path)
        if not path.is_dir():
            return [self._file(path, Path(path.name))]
        files = sorted([*find_images(path), *path.rglob("*.cdi")])
        if not files:
            raise ValueError("no pictures and no .cdi files in this folder")
        return (self._file(file, file.relative_to(path)) for file in files)

    def _file(self, path: Path, place: Path) -> Source:
        if path.suffix.lower() == ".cdi":
            return Source(str(path), place, lambda: self._from_bits(str(path), path.read_bytes()))
        return Source(str(path), place, partial(self._from_picture, path))

    def _find_in_shards(self, root: Path) -> list[Source]:
        from cdinfer.data.index import read_index
        from cdinfer.data.shards import ShardDataset

        index = read_index(root)
        if self.codec is None or self.codec.stream != index.stream:
            mine = "original pictures" if self.codec is None else f"stream {self.codec.stream:08x}"
            raise ValueError(
                f"these shards hold stream {index.stream:08x}, this run reads {mine}: give what "
                "its own codec wrote, or the pictures"
            )
        sources = []
        for split in index.splits:
            data = ShardDataset(root, split, None, whole=True)
            for number, key in enumerate(data.keys()):
                load = partial(self._from_shard, str(root / key), data, number)
                sources.append(Source(str(root / key), Path(key), load))
        return sources

    def _read(self, sources: Iterable[Source], on_error: OnError | None) -> Iterator[Sample]:
        for source in sources:
            try:
                sample = self._cut(source.load())
            except (ValueError, OSError, MemoryError) as error:
                _refuse(source.file, error, on_error)
                continue
            yield sample

    def _from_shard(self, file: str, data: "ShardDataset", number: int) -> Sample:
        return self._from_bits(file, data.file(number))

    def _from_bits(self, file: str, data: bytes) -> Sample:
        codec = self.codec
        if codec is None:
            raise ValueError("this run reads original pictures: give the picture, not a .cdi file")
        parsed = parse(data)
        if self.reads == "decoded":
            x = round_to_8_bits(codec.decompress([data]))
        else:
            planes = {name: p.to(self.device) for name, p in codec.unpack([parsed]).items()}
            x = codec.dequantize(planes).y
        size = parsed.header.height, parsed.header.width
        return Sample(file, x, size, size, lambda: from_tensor(codec.decompress([data])[0]))

    @torch.inference_mode()
    def _from_picture(self, path: Path) -> Sample:
        picture = read_image(path)
        height, width = picture.shape[:2]
        if self.resize is not None:
            picture = resize_short_side(picture, self.resize)
        x = to_tensor(picture).unsqueeze(0).to(self.device)
        seen = x.shape[-2], x.shape[-1]
        if self.codec is not None:
            x = self.codec.encode(x).y
            if self.reads == "decoded":
                x = round_to_8_bits(self.codec.decode(x)[..., : seen[0], : seen[1]])
        return Sample(str(path), x, seen, (height, width), partial(read_image, path))

    def _cut(self, sample: Sample) -> Sample:
        """Cut the centre that validation saw; smaller inputs stay whole."""
        if self.crop is None:
            return sample
        unit = self.codec.stride if self.codec is not None and self.reads == "latents" else 1
        x = sample.x
        height, width = (min(side, self.crop // unit) for side in x.shape[-2:])
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        x = x[..., top : top + height, left : left + width]
        return sample._replace(x=x, seen=(height * unit, width * unit))


def _in_batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Put neighbours of one size together."""
    batch: list[Sample] = []
    for sample in samples:
        most = min(BATCH, max(1, BATCH_PIXELS // (sample.seen[0] * sample.seen[1])))
        alike = batch and (sample.x.shape, sample.seen) == (batch[0].x.shape, batch[0].seen)
        if batch and (not alike or len(batch) >= most):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )


def _refuse(file: str, error: Exception, on_error: OnError | None) -> None:
    if on_error is None:
        raise ValueError(f"{file}: {error}") from error
    on_error(file, error)
