"""Compressive autoencoders: pictures <-> a few whole numbers at 1/8 resolution.

    x --g_a--> z --quantizer--> y --g_s--> x_hat
    (B, 3, H, W)  (B, C, H/8, W/8)  (B, 3, H, W)

    design       g_a                        kMAC/px  g_s                     quantizer
    cae          the paper's + linear            71  sub-pixel + linear      learned steps
    cae-lite     8x8 first + linear               9  sub-pixel + linear      learned steps
    cae-paper    the paper's                     71  the paper's mirror      6 learned centers

`networks` draws the layers, `quantizer` the quantisers. The target rate is the only dial: it
fixes C, and with it the entropy that training may spend, ``H_t = 64 * bpp / C`` bits a symbol:

    bpp      C   H_t
    0.0983    8  0.786
    0.330    16  1.320
    0.635    32  1.270

Training ends with `freeze` (``stored.py``): a context model is fitted to the numbers of training
pictures, and from then on symbols, centers and tables are what `bitstream` stores, whatever the
design.

References:
    Theis et al., Lossy image compression with compressive autoencoders, ICLR 2017,
        https://arxiv.org/abs/1703.00395 (architecture).
    Torfason et al., Towards image understanding from deep compression without decoding,
        ICLR 2018, https://arxiv.org/abs/1803.06131 (operating points; layer sizes follow from
        its 3.56 GMAC at 224x224).
    Mentzer et al., CVPR 2018, https://arxiv.org/abs/1801.04260 (input normalisation).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdinfer.bitstream.container import MAX_PIXELS, Header, Parsed
from cdinfer.bitstream.context import ContextModel
from cdinfer.bitstream.files import read_files, write_files
from cdinfer.bitstream.fit import fit_model
from cdinfer.bitstream.rans import ideal_bits
from cdinfer.codecs import networks, tiles
from cdinfer.codecs.base import LatentCodec, Latents, Planes, pad_to_multiple
from cdinfer.codecs.quantizer import Quantizer, SoftToHard, Steps, nearest
from cdinfer.codecs.stream import identity

Design = Literal["cae", "cae-lite", "cae-paper"]
Precision = Literal["fp32", "bf16"]

#: Longest side of a picture that goes through the networks whole, in pixels; larger ones in tiles.
TILE = 2048

#: Target rate in bits per pixel -> latent channels.
OPERATING_POINTS = {0.0983: 8, 0.330: 16, 0.635: 32}

#: The codec's name inside bitstreams; designs are told apart by their stream ids.
LETTERS = "CAE_"

#: Mean and variance of natural images in 0..255, per channel (Mentzer et al., public code).
MEAN = (121.854, 113.589, 100.637)
VARIANCE = (4746.38, 4454.14, 4812.23)


def latent_channels(bpp: float) -> int:
    """Return C for one of the rates.

    Raises:
        ValueError: if there is no operating point at ``bpp``.

    Example:
        >>> latent_channels(0.33)
        16
    """
    try:
        return OPERATING_POINTS[bpp]
    except KeyError:
        close = min(OPERATING_POINTS, key=lambda rate: abs(rate - bpp))
        known = ", ".join(map(str, OPERATING_POINTS))
        raise ValueError(
            f"cae has no operating point at {bpp} bpp (known: {known}); use --bpp {close}"
        ) from None


class CAE(LatentCodec):
    """A compressive autoencoder; see the module's tables.

    Args:
        bpp: nominal rate, one of ``OPERATING_POINTS``.
        width: multiplies the hidden layers' channels; below 1 for small machines.
        design: which networks and quantiser.

    Attributes:
        precision: of a frozen codec's networks; ``bf16`` halves their time where the machine has
            it, and flips the symbols whose rounding it changes.
        tile: longest side that goes through the networks whole, in pixels; a multiple of 8.

    Pictures may also be uint8, 0..255: they are converted tile by tile then.

    Raises:
        ValueError: if a value is outside its range.
    """

    precision: Precision = "fp32"
    tile = TILE
    stride = 8
    planes = ("y",)

    def __init__(self, bpp: float = 0.330, width: float = 1.0, design: Design = "cae") -> None:
        super().__init__()
        if not 0 < width <= 4:
            raise ValueError(f"expected width in (0, 4], got {width}; 1.0 is the designs' own")
        if design not in get_args(Design):
            raise ValueError(f"expected design {' or '.join(get_args(Design))}, got {design}")
        self.bpp, self.width, self.design = bpp, width, design
        self.name: str = design
        channels = self.channels = latent_channels(bpp)
        self.g_a: nn.Module
        self.g_s: nn.Module
        self.quantizer: Quantizer
        if design == "cae-paper":
            self.g_a = networks.paper_body(channels, width)
            self.g_s = networks.paper_synthesis(channels, width)
            self.quantizer = SoftToHard(channels)
        else:
            body = networks.paper_body if design == "cae" else networks.lite_body
            self.g_a = networks.Analysis(body(channels, width), channels)
            self.g_s = networks.Synthesis(channels, width)
            self.quantizer = Steps(channels)
        self.mean: Tensor
        self.std: Tensor
        self.centers: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) / 255, False)
        std = torch.tensor(VARIANCE).sqrt().view(1, 3, 1, 1) / 255
        self.register_buffer("std", std, False)
        #: What symbols stand for, ``(C, L)``, once there is a context model.
        self.register_buffer("centers", torch.zeros(channels, 1), False)
        self.model: ContextModel | None = None
        self.frozen = False
        self.max_pixels = MAX_PIXELS
        self._identified: tuple[Tensor, ContextModel, int] | None = None

    @property
    def stream(self) -> int:
        model, known, centers = self._model(), self._identified, self.centers.cpu()
        if known is None or known[1] is not model or not torch.equal(known[0], centers):
            known = (centers.clone(), model, identity(LETTERS, centers, model))
            self._identified = known  # a hash of the tables takes as long as decoding pictures
        return known[2]

    def fit(self, numbers: Sequence[NDArray[np.int16]]) -> None:
        """Fit the coder's context model; files are provisional until the codec is frozen.

        Args:
            numbers: those of training pictures, from :meth:`numbers`, ``(C, h, w)`` each.
        """
        model = fit_model(numbers, self.quantizer.limits)
        k = np.arange(int(model.sizes.max())) - model.zeros[:, None].astype(np.float32)
        with torch.inference_mode(False):  # validation's tensors could not be trained beside
            self.centers = self.quantizer.values(torch.from_numpy(k).to(self.mean)).detach()
        self.model = model

    def set_tables(self, model: ContextModel, centers: Tensor) -> None:
        """Fix the context model and what its symbols stand for; the codec then counts as trained.

        Args:
            model: of C channels.
            centers: ``(C, L)``, rising over the symbols of each channel.
        """
        self.model, self.centers, self.frozen = model, centers.to(self.mean), True
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # a seventh to a quarter faster on CPUs

    def encode(self, x: Tensor) -> Latents:
        if self.frozen:
            return self.dequantize({"y": self.symbols(x)})
        z = self._analysis(x)
        with torch.autocast(z.device.type, enabled=False):
            y, bits = self.quantizer(z)
        return Latents(y, None, bits.sum((1, 2, 3)))

    def decode(self, y: Tensor) -> Tensor:
        return self._tiled(self.g_s, self._decode, y)

    @torch.inference_mode()
    def symbols(self, x: Tensor) -> Tensor:
        """Return the uint8 symbols ``(B, C, h, w)`` that :meth:`compress` stores."""
        sizes = torch.from_numpy(self._model().sizes.astype(np.int64))
        return nearest(self._analysis(x), self.centers, sizes)

    @torch.inference_mode()
    def numbers(self, x: Tensor) -> Tensor:
        """Return the whole numbers ``(B, C, h, w)`` int16 that a context model is fitted to."""
        return self.quantizer.numbers(self._analysis(x))

    def symbol_bits(self, symbols: Tensor) -> Tensor:
        """Return the code length of ``symbols (B, C, h, w)`` under the tables: ``(B,)`` bits."""
        return torch.from_numpy(ideal_bits(symbols.cpu().numpy(), self._model()))

    def compress(
        self,
        x: Tensor,
        fields: tuple[tuple[str, bytes], ...] = (),
        groups: tuple[int, ...] | None = None,
    ) -> list[bytes]:
        """Encode ``(B, 3, H, W)`` images in [0, 1] into complete ``.cdi`` files.

        Args:
            x: the pictures.
            fields: optional fields of the container, as ``("EXIF", data)``.
            groups: channels of each channel group, C in all; the first k groups decode without
                the others, at a few more bytes. None: one group.

        Raises:
            ValueError: if the groups have not C channels.
        """
        return self.pack(self.symbols(x), (x.shape[-2], x.shape[-1]), fields, groups)

    def pack(
        self,
        symbols: Tensor,
        size: tuple[int, int],
        fields: tuple[tuple[str, bytes], ...] = (),
        groups: tuple[int, ...] | None = None,
    ) -> list[bytes]:
        """Return the files of symbols ``(B, C, h, w)``: what :meth:`compress` does after the net.

        ``size`` is height and width of the pictures in pixels.
        """
        header = Header(LETTERS, self.stream, *size, not self.frozen, fields=fields)
        return write_files(symbols.cpu().numpy(), header, self._model(), groups)

    def unpack(
        self, data: Sequence[bytes | Parsed], groups: int | None = None
    ) -> dict[str, Tensor]:
        """Entropy-decode files of one latent size; only the first ``groups`` groups, if given."""
        return self._read(data, groups)[0]

    @torch.inference_mode()
    def decompress(self, data: Sequence[bytes]) -> Tensor:
        y, height, width = self._latents(data)
        return self.decode(y)[..., :height, :width].clamp(0, 1)

    @torch.inference_mode()
    def render(self, data: Sequence[bytes]) -> Tensor:
        """Return what :meth:`decompress` does, rounded to 8 bits: uint8 ``(B, 3, H, W)``."""

        def work(y: Tensor) -> Tensor:
            return self._decode(y).clamp_(0, 1).mul_(255).round_().to(torch.uint8)

        y, height, width = self._latents(data)
        return self._tiled(self.g_s, work, y)[..., :height, :width]

    def dequantize(self, planes: Planes) -> Latents:
        symbols = planes["y"].long()
        channel = torch.arange(symbols.shape[1], device=symbols.device).view(1, -1, 1, 1)
        return Latents(self.centers[channel, symbols], None, None)

    def _analysis(self, x: Tensor) -> Tensor:
        return self._tiled(self.g_a, self._encode, x)

    def _encode(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, self.stride)
        x = x.to(self.mean) / 255 if x.dtype == torch.uint8 else x
        with self._cast():
            z: Tensor = self.g_a((x - self.mean) / self.std)
        return z.float()

    def _decode(self, y: Tensor) -> Tensor:
        with self._cast():
            x_hat: Tensor = self.g_s(y)
        return x_hat.float() * self.std + self.mean

    def _tiled(self, net: nn.Module, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        grain = (self.stride, 1) if net is self.g_a else (1, self.stride)
        return tiles.run(net, work, x, self.tile // self.stride, grain)

    def _cast(self) -> AbstractContextManager[object]:
        """Leave the caller's autocast alone unless the codec itself has a precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.mean.device.type, torch.bfloat16)

    def _model(self) -> ContextModel:
        if self.model is None:
            raise ValueError(
                f"this {self.name} has not been trained, so it has no tables to code symbols with: "
                f"run cdinfer train --task codec --bpp {self.bpp}"
            )
        return self.model

    def _latents(self, data: Sequence[bytes]) -> tuple[Tensor, int, int]:
        """Return y of files of one picture size, on the codec's device, and that size."""
        planes, sizes = self._read(data)
        if len(set(sizes)) > 1:
            raise ValueError(f"expected pictures of one size, got {sorted(set(sizes))}")
        planes = {name: plane.to(self.mean.device) for name, plane in planes.items()}
        return self.dequantize(planes).y, *sizes[0]

    def _read(
        self, data: Sequence[bytes | Parsed], groups: int | None = None
    ) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        symbols, sizes = read_files(
            data, LETTERS, self.stream, self._model(), self.stride, self.max_pixels, groups
        )
        return {"y": torch.from_numpy(symbols)}, sizes
