"""A floor under the quality of stored pictures: PSNR of the 8-bit reconstruction, in dB.

picture --codec--> file --> PSNR >= floor? --no--> next higher rate ... --no--> JPEG XL
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdinfer.codecs.cae import CAE, OPERATING_POINTS
from cdinfer.codecs.classical import STANDARDS
from cdinfer.codecs.stored import read_codec
from cdinfer.codecs.zoo import find_codec

#: Rows compared at once: large pictures are never held as anything but bytes.
ROWS = 256


class Attempt(NamedTuple):
    """A file made of a picture.

    Attributes:
        file: its bytes.
        psnr: in dB; infinity if it is exact.
        rate: nominal rate of its codec in bits per pixel; ``None`` for JPEG XL.
        how: which rate or setting that was, in words.
    """

    file: bytes
    psnr: float
    rate: float | None
    how: str


def psnr(x_hat: Tensor, x: Tensor) -> float:
    """Return the PSNR in dB between two uint8 ``(3, H, W)`` pictures; infinity if equal.

    Example:
        >>> psnr(torch.zeros(3, 2, 2).byte(), torch.full((3, 2, 2), 255).byte())
        0.0
    """
    error = 0
    for start in range(0, x.shape[-2], ROWS):
        rows = slice(start, start + ROWS)
        difference = x_hat[:, rows].int() - x[:, rows].int()
        error += int(difference.square().sum(dtype=torch.int64))
    return 10 * math.log10(255**2 * x.numel() / error) if error else math.inf


def measure(codec: CAE, x: Tensor, files: Sequence[bytes]) -> list[float]:
    """Return the PSNR of each of ``files``, what ``codec`` made of uint8 ``x (B, 3, H, W)``."""
    return [psnr(*pair) for pair in zip(codec.render(files), x.to(codec.mean.device), strict=True)]


def higher_rates(codec: CAE) -> Iterator[CAE]:
    """Yield the trained codecs of the same name at higher rates, lowest first."""
    for bpp in sorted(OPERATING_POINTS):
        if bpp > codec.bpp:
            try:
                folder = find_codec(codec.name, bpp)
            except ValueError:  # not trained
                continue
            yield read_codec(folder)


def encode_above(
    floor: float,
    picture: npt.NDArray[np.uint8],
    codecs: Iterable[CAE],
    fields: tuple[tuple[str, bytes], ...] = (),
) -> list[Attempt]:
    """Encode with each codec until the file is good enough, and in the end as JPEG XL.

    Args:
        floor: in dB.
        picture: ``(H, W, 3)``.
        codecs: lowest rate first, at least one.
        fields: stored in ``.cdi`` files.

    Returns:
        All attempts; the last one is not below the floor.
    """
    attempts = []
    x = torch.from_numpy(picture).permute(2, 0, 1)[None]
    for codec in codecs:
        (file,) = codec.compress(x, fields)
        (reached,) = measure(codec, x, [file])
        attempts.append(Attempt(file, reached, codec.bpp, f"at {codec.bpp:g} bpp"))
        if reached >= floor:
            return attempts
    return [*attempts, jpeg_xl(picture, floor)]


def jpeg_xl(picture: npt.NDArray[np.uint8], floor: float) -> Attempt:
    """Return a picture as a JPEG XL file of the longest distance that is not below a floor.

    Distances are searched by bisection, as if quality rose whenever they shrink. If the shortest
    is not good enough, the file is lossless.

    Args:
        picture: ``(H, W, 3)``.
        floor: in dB.
    """
    levels = STANDARDS["jxl"].levels
    best = None
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        attempt = _jpeg_xl(picture, levels[middle], f"as JPEG XL at distance {levels[middle]:g}")
        if attempt.psnr >= floor:
            best, high = attempt, middle
        else:
            low = middle + 1
    return best or _jpeg_xl(picture, 0, "as lossless JPEG XL", lossless=True)


def _jpeg_xl(picture: npt.NDArray[np.uint8], distance: float, how: str, **options: bool) -> Attempt:
    standard = STANDARDS["jxl"]
    file = standard.encode(picture, distance, **standard.options | options)
    pair = (torch.from_numpy(p).permute(2, 0, 1) for p in (standard.decode(file), picture))
    return Attempt(file, psnr(*pair), None, how)
