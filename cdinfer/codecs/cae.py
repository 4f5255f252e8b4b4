"""Compressive autoencoder with soft-to-hard scalar quantisation.

    x --5x5/2, 5x5/2, 3 residual units, 5x5/2--> z --Q--> y --mirror--> x_hat
    (B, 3, H, W)                     (B, C, H/8, W/8)         (B, 3, H, W)

    layer          channels       resolution
    conv 5x5 / 2     3 -> 64         1/2
    conv 5x5 / 2    64 -> 128        1/4
    3 x (3x3, 3x3) 128 -> 128        1/4      identity skip, no activation at the end
    conv 5x5 / 2   128 -> C          1/8      no activation

Q maps each entry of z to the nearest of L learned centers, one vector for all channels. The
target rate is the only dial: it fixes C, and with it the entropy that training may spend,
``H_t = 64 * bpp / C`` bits a symbol:

    bpp      C   H_t
    0.0983    8  0.786
    0.330    16  1.320
    0.635    32  1.270

References:
    Theis et al., Lossy image compression with compressive autoencoders, ICLR 2017,
        https://arxiv.org/abs/1703.00395 (architecture).
    Torfason et al., Towards image understanding from deep compression without decoding,
        ICLR 2018, https://arxiv.org/abs/1803.06131 (operating points; layer sizes follow from
        its 3.56 GMAC at 224x224).
    Mentzer et al., CVPR 2018, https://arxiv.org/abs/1801.04260 (input normalisation, L = 6).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cdinfer.bitstream.container import MAX_PIXELS, Header
from cdinfer.bitstream.tables import Tables, build_tables
from cdinfer.codecs import stream as streams
from cdinfer.codecs.base import LatentCodec, Latents, Planes, pad_to_multiple
from cdinfer.codecs.quantizer import code_length, histogram, nearest, quantize

#: Target rate in bits per pixel -> latent channels.
OPERATING_POINTS = {0.0983: 8, 0.330: 16, 0.635: 32}

#: The codec's name inside bitstreams.
LETTERS = "CAE_"

#: Mean and variance of natural images in 0..255, per channel (Mentzer et al., public code).
MEAN = (121.854, 113.589, 100.637)
VARIANCE = (4746.38, 4454.14, 4812.23)

#: Least probability the rate estimate gives a symbol: one count of the coder's 12-bit tables.
LEAST = 2.0**-12


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


class ResidualUnit(nn.Module):
    """``x + conv(relu(conv(x)))``, 3x3 at constant width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.body(x))


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


class CAE(LatentCodec):
    """The compressive autoencoder; see the module's table.

    Args:
        bpp: nominal rate, one of ``OPERATING_POINTS``.
        width: multiplies 64 and 128; below 1 for small machines.
        levels: number of centers L, 2 to 256.

    Raises:
        ValueError: if a value is outside its range.
    """

    name = "cae"
    stride = 8
    planes = ("y",)

    def __init__(self, bpp: float = 0.330, width: float = 1.0, levels: int = 6) -> None:
        super().__init__()
        if not 0 < width <= 4:
            raise ValueError(f"expected width in (0, 4], got {width}; 1.0 is the paper's")
        if not 2 <= levels <= 256:
            raise ValueError(f"expected levels in [2, 256], got {levels}; 6 is the default")
        self.bpp, self.width, self.levels = bpp, width, levels
        self.channels = latent_channels(bpp)
        half, full = max(8, round(64 * width)), max(16, round(128 * width))
        self.g_a = nn.Sequential(
            _down(3, half),
            nn.ReLU(),
            _down(half, full),
            nn.ReLU(),
            *(ResidualUnit(full) for _ in range(3)),
            _down(full, self.channels),
        )
        self.g_s = nn.Sequential(
            _up(self.channels, full),
            nn.ReLU(),
            *(ResidualUnit(full) for _ in range(3)),
            _up(full, half),
            nn.ReLU(),
            _up(half, 3),
        )
        self.centers = nn.Parameter(torch.linspace(-2, 2, levels))
        self.mean: Tensor
        self.std: Tensor
        self.frequencies: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) / 255, False)
        std = torch.tensor(VARIANCE).sqrt().view(1, 3, 1, 1) / 255
        self.register_buffer("std", std, False)
        #: Running symbol probabilities (C, L) while training; the exact tables once frozen.
        uniform = torch.full((self.channels, levels), 1 / levels)
        self.register_buffer("frequencies", uniform)
        self.tables: Tables | None = None
        self.max_pixels = MAX_PIXELS

    @property
    def stream(self) -> int:
        return streams.identity(LETTERS, self.centers, self._tables())

    def set_tables(self, tables: Tables) -> None:
        """Fix the coder's integer tables; the codec then counts as trained."""
        self.tables = tables
        self.frequencies.copy_(torch.from_numpy(tables.frequencies.astype("float32")) / 2**12)
        self.requires_grad_(False).eval()

    def encode(self, x: Tensor) -> Latents:
        z = self._analysis(x).float()
        with torch.autocast(z.device.type, enabled=False):
            quantized = quantize(z, self.centers)
            if self.training:
                self._count(quantized.symbols)
            bits = code_length(quantized, self.frequencies.clamp(min=LEAST))
        return Latents(quantized.y, None, bits.sum((1, 2, 3)))

    def decode(self, y: Tensor) -> Tensor:
        x_hat: Tensor = self.g_s(y)
        return x_hat.float() * self.std + self.mean

    @torch.inference_mode()
    def symbols(self, x: Tensor) -> Tensor:
        """Return the uint8 symbols ``(B, C, h, w)`` that :meth:`compress` stores."""
        return nearest(self._analysis(x).float(), self.centers).to(torch.uint8)

    def symbol_bits(self, symbols: Tensor) -> Tensor:
        """Return the estimated code length of ``symbols (B, C, h, w)``: ``(B,)`` bits."""
        cost = -torch.log2(self.frequencies.clamp(min=LEAST))
        channel = torch.arange(self.channels, device=cost.device).view(1, -1, 1, 1)
        return cost[channel, symbols.long()].sum((1, 2, 3))

    def compress(self, x: Tensor) -> list[bytes]:
        header = self._header(x.shape[-2], x.shape[-1])
        return streams.write(self.symbols(x).cpu().numpy(), header, self._tables())

    def unpack(self, data: Sequence[bytes]) -> dict[str, Tensor]:
        return self._read(data)[0]

    @torch.inference_mode()
    def decompress(self, data: Sequence[bytes]) -> Tensor:
        planes, sizes = self._read(data)
        if len(set(sizes)) > 1:
            raise ValueError(f"expected pictures of one size, got {sorted(set(sizes))}")
        height, width = sizes[0]
        planes = {name: plane.to(self.centers.device) for name, plane in planes.items()}
        x_hat = self.decode(self.dequantize(planes).y)
        return x_hat[..., :height, :width].clamp(0, 1)

    def dequantize(self, planes: Planes) -> Latents:
        return Latents(self.centers.detach()[planes["y"].long()], None, None)

    def _analysis(self, x: Tensor) -> Tensor:
        z: Tensor = self.g_a((pad_to_multiple(x, self.stride) - self.mean) / self.std)
        return z

    @torch.no_grad()
    def _count(self, symbols: Tensor) -> None:
        counts = histogram(symbols, self.levels).float()
        self.frequencies.lerp_(counts / counts.sum(-1, keepdim=True), 0.02)

    def _tables(self) -> Tables:
        """The frozen tables, or while training provisional ones from the running histogram."""
        if self.tables is not None:
            return self.tables
        return build_tables((self.frequencies * 2**24).long().cpu().numpy())

    def _header(self, height: int, width: int) -> Header:
        return Header(LETTERS, self.stream, height, width, self.tables is None)

    def _read(self, data: Sequence[bytes]) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        symbols, sizes = streams.read(
            data, LETTERS, self.stream, self._tables(), self.stride, self.max_pixels
        )
        return {"y": torch.from_numpy(symbols)}, sizes
