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
from cdinfer.data.writer import Encoded, Made

#: Most symbols that are decoded at once.
SYMBOLS = 2**22


def digest(symbols: NDArray[np.uint8]) -> bytes:
    """Return what stands for one picture's symbols ``(C, h, w)``."""
    return hashlib.sha256(symbols.tobytes()).digest()


def check_shard(
    codec: CAE, made: Made, groups: Sequence[Sequence[Encoded]], digests: Mapping[str, bytes]
) -> None:
    """Decode every block of a shard.

    Args:
        codec: which wrote it.
        made: the shard.
        groups: the pictures of each block.
        digests: of the symbols that were encoded, by key.

    Raises:
        ValueError: naming the first block and picture that differ.
    """
    name = made.entry["name"]
    for number, (group, files) in enumerate(zip(groups, _blocks(made), strict=True)):
        height, width = group[0].latent_size
        step = max(1, SYMBOLS // (codec.channels * height * width))
        pieces = (files[start : start + step] for start in range(0, len(files), step))
        found = [one for piece in pieces for one in _decode(codec, piece)]
        for one, seen in zip(group, found, strict=True):
            if seen != digests[one.item.key]:
                raise ValueError(
                    f"block {number} of {name} does not decode to what was encoded: "
                    f"{one.item.key}; run the same command again, and if it stays, check the "
                    "memory of this machine"
                )


def _decode(codec: CAE, files: list[bytes]) -> list[bytes]:
    try:
        return [digest(plane) for plane in codec.unpack(files)["y"].numpy()]
    except BitstreamError:
        return [b""] * len(files)


def _blocks(made: Made) -> Iterator[list[bytes]]:
    """Yield the files of each block as readers find them; in the plain layout one at a time."""
    name = made.entry["name"]
    tar = made.files[f"{name}.tar"]
    if made.entry["blocks"]:
        for number, (offset, length, *_) in enumerate(made.entry["blocks"]):
            place = memoryview(tar)[offset : offset + length]
            block = Block(place, f"{name}-{number:04d}.cdb")
            yield [block[i] for i in range(len(block))]
        return
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            if member.name.endswith(".cdi"):
                yield [tar[member.offset_data : member.offset_data + member.size]]
