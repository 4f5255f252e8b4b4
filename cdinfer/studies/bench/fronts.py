"""From files to what a network reads: the ways that are compared.

    latents       .cdi --> symbols --> the crop's latents
    decoded       .cdi --> symbols --> the crop's latents --> decoder --> pixels
    JPEG, NAME    .jpg --> pixels of the crop
    CompressAI    its strings --> latents of the crop --> its decoder --> pixels

The crop is the centre. Decoders see the crop alone, the least that decoding first can cost.
CompressAI's network is ``bmshj2018_hyperprior``, not trained, since its weights cannot be had
everywhere: what it has to do is the same, and what it decodes is no picture.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cdinfer.codecs import CAE
from cdinfer.codecs.classical import Picture
from cdinfer.data.images import to_tensor
from cdinfer.models import count_macs
from cdinfer.studies.bench import jpeg, peers

#: JPEG decoders whose pictures are classified.
DECODERS = ("Pillow", "simplejpeg")

#: CompressAI's name in rows.
COMPRESSAI = "CompressAI's hyperprior, untrained"

#: All that can be measured against latents, if it is installed.
PEERS = ("decoded", *(f"JPEG, {name}" for name in DECODERS), COMPRESSAI)

#: CompressAI's channels inside and of its latents, at its five lower rates; pixels per latent.
HIDDEN, CHANNELS, STRIDE = 128, 192, 16

Size = tuple[int, int]


class Front(NamedTuple):
    """A way from files to a network.

    Attributes:
        name: in rows.
        files: one for each picture, or what stands for it.
        read: some of them -> what the decoder or, without one, the network reads; no network runs
            in it but CompressAI's small one.
        shape: ``(C, h, w)`` of what ``read`` returns.
        decoder: latents -> pixels in [0, 1]; ``None`` where nothing is decoded.
        stride: pixels that the decoder makes of a latent, each way.
        macs: multiply-accumulates for one picture before its network.
    """

    name: str
    files: Sequence[Any]
    read: Callable[[Sequence[Any]], Tensor]
    shape: tuple[int, int, int]
    decoder: nn.Module | None = None
    stride: int = 1
    macs: int = 0

    @property
    def sees(self) -> tuple[int, int, int]:
        """Shape of what the network reads."""
        if self.decoder is None:
            return self.shape
        _, height, width = self.shape
        return 3, height * self.stride, width * self.stride


class Decoder(nn.Module):
    """The decoder of a codec, to pixels in [0, 1]: ``(B, C, h, w)`` -> ``(B, 3, 8h, 8w)``."""

    mean: Tensor
    std: Tensor

    def __init__(self, codec: CAE) -> None:
        super().__init__()
        self.g_s = codec.g_s
        self.register_buffer("mean", codec.mean)
        self.register_buffer("std", codec.std)

    def forward(self, y: Tensor) -> Tensor:
        x: Tensor = self.g_s(y) * self.std + self.mean
        return x.clamp(0, 1)


def write_cdi(codec: CAE, pictures: Sequence[Picture]) -> list[bytes]:
    """Return the ``.cdi`` files of pictures of one size, looked at."""
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    symbols = codec.symbols(x)
    files = codec.pack(symbols, (x.shape[-2], x.shape[-1]))
    assert torch.equal(codec.unpack(files)["y"], symbols), "a file holds other symbols"
    return files


def from_latents(codec: CAE, files: Sequence[bytes], size: Size) -> Front:
    """Return the way that never sees pixels.

    Args:
        codec: whose files are read.
        files: of pictures of one size.
        size: height and width of the crop, in pixels.
    """
    height, width = (side // codec.stride for side in size)

    def read(data: Sequence[bytes]) -> Tensor:
        symbols = cut(codec.unpack(data)["y"], (height, width))
        return codec.dequantize({"y": symbols}).y

    return Front("latents", files, read, (codec.channels, height, width))


def decoded(codec: CAE, latents: Front) -> Front:
    """Return the way of the same files through our decoder."""
    decoder = Decoder(codec).eval()
    macs = count_macs(decoder, (1, *latents.shape))
    return latents._replace(name="decoded", decoder=decoder, stride=codec.stride, macs=macs)


def from_jpeg(files: Sequence[bytes], size: Size) -> list[Front]:
    """Return the ways of JPEG files, one for each decoder of ``DECODERS`` that is there."""
    there = jpeg.installed()
    return [
        Front(f"JPEG, {name}", files, partial(_read_jpegs, there[name], size), (3, *size))
        for name in DECODERS
        if name in there
    ]


def from_compressai(pictures: Sequence[Picture], size: Size) -> Front | None:
    """Return the way of CompressAI's hyperprior, or ``None`` where it is not installed."""
    module = peers.find("compressai.models")
    if module is None:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = module.ScaleHyperprior(HIDDEN, CHANNELS).eval().requires_grad_(False)
    model.update()
    files = [model.compress(to_tensor(picture)[None]) for picture in pictures]
    height, width = (side // STRIDE for side in size)

    def read(data: Sequence[Any]) -> Tensor:
        strings = [[s for file in data for s in file["strings"][kind]] for kind in (0, 1)]
        z_hat = model.entropy_bottleneck.decompress(strings[1], data[0]["shape"])
        indexes = model.gaussian_conditional.build_indexes(model.h_s(z_hat))
        y_hat = model.gaussian_conditional.decompress(strings[0], indexes, z_hat.dtype)
        return cut(y_hat, (height, width))

    z = (1, HIDDEN, *files[0]["shape"])
    decoder = nn.Sequential(model.g_s, nn.Hardtanh(0, 1))
    macs = _count(model.h_s, z) + _count(decoder, (1, CHANNELS, height, width))
    return Front(COMPRESSAI, files, read, (CHANNELS, height, width), decoder, STRIDE, macs)


def cut(x: Tensor, size: Size) -> Tensor:
    """Return the centre of ``(..., H, W)``."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[-2:], size, strict=True))
    return x[..., top : top + size[0], left : left + size[1]]


def _read_jpegs(decode: Callable[[bytes], Any], size: Size, data: Sequence[bytes]) -> Tensor:
    pictures = np.stack([_cut_array(jpeg.as_array(decode(file)), size) for file in data])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255)


def _cut_array(picture: Picture, size: Size) -> Picture:
    top, left = ((have - want) // 2 for have, want in zip(picture.shape, size, strict=False))
    return picture[top : top + size[0], left : left + size[1]]


def _count(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the MACs of a network that calls ``torch.nn.functional``, as CompressAI's GDN does."""
    from torch.utils.flop_counter import FlopCounterMode  # 80 MiB

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(shape))
    return int(counter.get_total_flops()) // 2
