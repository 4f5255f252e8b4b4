"""Whether a shard decodes to what was encoded, before anyone gets to see it."""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.codecs import CAE
from cdinfer.data.blocks import Block
from cdinfer.data.images import open_image, pillow
from cdinfer.data.mask_blocks import MaskBlock
from cdinfer.data.masks import Mask
from cdinfer.data.targets import targets_name
from cdinfer.data.writer import MASK, Encoded, Made

#: A bitstream and the PNG of its mask, or nothing.
Sample = tuple[bytes, bytes]

#: Most symbols that are decoded at once.
SYMBOLS = 2**22


def digest(symbols: NDArray[np.uint8], mask: Mask | None = None) -> bytes:
    """Return what stands for one picture's symbols ``(C, h, w)`` and its mask ``(H, W)``."""
    return hashlib.sha256(symbols.tobytes() + (b"" if mask is None else mask.tobytes())).digest()


def check_shard(
    codec: CAE, made: Made, groups: Sequence[Sequence[Encoded]], digests: Mapping[str, bytes]
) -> None:
    """Decode every block of a shard.

    Args:
        codec: which wrote it.
        made: the shard.
        groups: the pictures of each block.
        digests: of the symbols that were encoded, and of the masks, by key.

    Raises:
        ValueError: naming the first block and picture that differ.
    """
    name = made.entry["name"]
    for number, (group, samples) in enumerate(zip(groups, _blocks(made), strict=True)):
        height, width = group[0].latent_size
        step = max(1, SYMBOLS // (codec.channels * height * width))
        pieces = (samples[start : start + step] for start in range(0, len(samples), step))
        found = [one for piece in pieces for one in _decode(codec, piece)]
        for one, seen in zip(group, found, strict=True):
            if seen != digests[one.item.key]:
                raise ValueError(
                    f"block {number} of {name} does not decode to what was encoded: "
                    f"{one.item.key}; run the same command again, and if it stays, check the "
                    "memory of this machine"
                )


def _decode(codec: CAE, samples: list[Sample]) -> list[bytes]:
    """Return the digests of samples; masks are read as other people's software reads them."""
    try:
        planes = codec.unpack([file for file, _ in samples])["y"].numpy()
        masks = [_read_png(png) if png else None for _, png in samples]
    except (BitstreamError, OSError, SyntaxError):
        return [b""] * len(samples)
    return [digest(plane, mask) for plane, mask in zip(planes, masks, strict=True)]


def _read_png(png: bytes) -> Mask:
    with pillow(), open_image(io.BytesIO(png)) as image:
        return np.array(image)


def _blocks(made: Made) -> Iterator[list[Sample]]:
    """Yield the samples of each block as readers find them; in the plain layout one at a time."""
    name = made.entry["name"]
    tar = made.files[f"{name}.tar"]
    if made.entry["blocks"]:
        for number, (offset, length, *_) in enumerate(made.entry["blocks"]):
            place = memoryview(tar)[offset : offset + length]
            block = Block(place, f"{name}-{number:04d}.cdb")
            masks = _masks(made, number, len(block))
            yield [(block[i], masks[i]) for i in range(len(block))]
        return
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        found = {m.name: tar[m.offset_data : m.offset_data + m.size] for m in members}
    for member, file in found.items():
        if member.endswith(".cdi"):
            yield [(file, found.get(f"{member.removesuffix('.cdi')}{MASK}", b""))]


def _masks(made: Made, number: int, count: int) -> list[bytes]:
    """Return the masks of a block, or nothing for each sample of a set without."""
    if "masks" not in made.entry:
        return [b""] * count
    offset, length = made.entry["masks"][number]
    tar = memoryview(made.files[targets_name(made.entry["name"])])
    block = MaskBlock(tar[offset : offset + length], count)
    return [bytes(block[i]) for i in range(count)]
