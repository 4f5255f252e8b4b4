"""The two contracts every codec honours.

``Codec`` is image <-> bytes and covers JPEG as well as a neural network. ``LatentCodec`` adds
the thing this package exists for: quantised latents that a network can read without decoding
the image.

    image (B, 3, H, W) --encode--> Latents --decode--> image
           |                          ^
           +--compress--> .cdi bytes --unpack--> planes (integers) --dequantize

Images are float32 RGB in [0, 1]. Any size from 1x1 up works: pictures are padded by replication
at the right and the bottom to a multiple of the codec's stride, and cropped on the way back.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdinfer.bitstream.container import Parsed

Planes = Mapping[str, Tensor]


class Latents(NamedTuple):
    """A quantised code and what it costs.

    Attributes:
        y: ``(B, C, h, w)`` dequantised symbols, as decoder and networks expect them.
        sigma: ``(B, C, h, w)`` predicted scales, or ``None`` for a static prior.
        bits_est: ``(B,)`` estimated code length, differentiable, while a codec is trained;
            ``None`` from a frozen one, whose files are there to be measured.
    """

    y: Tensor
    sigma: Tensor | None
    bits_est: Tensor | None


class Codec(Protocol):
    """Anything that turns images into bytes and back."""

    name: str

    def compress(self, x: Tensor) -> list[bytes]:
        """Encode ``(B, 3, H, W)`` images with values in [0, 1], one file each."""
        ...

    def decompress(self, data: Sequence[bytes]) -> Tensor:
        """Return the ``(B, 3, H, W)`` images stored in ``data``; all of one size."""
        ...


class LatentCodec(nn.Module, ABC):
    """A learned codec. Subclasses are final: implement, never override.

    Attributes:
        name: what ``--codec`` calls it.
        bpp: nominal rate in bits per pixel.
        channels: number of latent channels C.
        stride: pixels per latent, in each direction.
        planes: the integer planes that :meth:`unpack` yields.
        max_pixels: largest picture a bitstream may claim to hold.
    """

    name: str
    bpp: float
    channels: int
    stride: int
    planes: tuple[str, ...]
    max_pixels: int

    @property
    @abstractmethod
    def stream(self) -> int:
        """The 32-bit stream id: what is needed to read symbols and give them meaning.

        Raises:
            ValueError: if the codec has not been trained.
        """

    @abstractmethod
    def encode(self, x: Tensor) -> Latents:
        """Map ``(B, 3, H, W)`` images in [0, 1] to latents of ``(ceil(H/s), ceil(W/s))``."""

    @abstractmethod
    def decode(self, y: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` latents to ``(B, 3, s*h, s*w)`` images, not clipped."""

    @abstractmethod
    def compress(self, x: Tensor) -> list[bytes]:
        """Encode ``(B, 3, H, W)`` images in [0, 1] into complete ``.cdi`` files."""

    @abstractmethod
    def decompress(self, data: Sequence[bytes]) -> Tensor:
        """Return the ``(B, 3, H, W)`` images in [0, 1] of files of one picture size."""

    @abstractmethod
    def unpack(self, data: Sequence[bytes | Parsed]) -> dict[str, Tensor]:
        """Entropy-decode ``.cdi`` files of one latent size to integer planes on the CPU.

        Shards give theirs taken apart: they hold many files of one header.

        Raises:
            BitstreamError: if a file is damaged, truncated, absurd or another codec's.
        """

    @abstractmethod
    def dequantize(self, planes: Planes) -> Latents:
        """Turn planes, on any device, into latents."""


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: if it is CUDA's and there is none.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device on this machine: give --device cpu")


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Replicate the last column and row until ``multiple`` divides both sides.

    Example:
        >>> import torch
        >>> pad_to_multiple(torch.zeros(1, 3, 9, 16), 8).shape
        torch.Size([1, 3, 16, 16])
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == 0 and right == 0:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="replicate")
