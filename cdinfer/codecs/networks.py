r"""The networks of the shipped codecs: linear transforms with convolutions around them.

    x (B, 3, H, W) --16x16/8------------------------> + --> z (B, C, H/8, W/8)
                   \--the encoder's convolutions--/

    y (B, C, h, w) --16x16 transposed /8------------> + --> x_hat (B, 3, 8h, 8w)
                   \--the decoder's convolutions--/

Both ends keep a linear path beside the convolutions, a lapped block transform that starts as the
principal components of 8x8 blocks. So training starts where a transform codec ends, and the
convolutions learn what no block transform can do. All receptive fields are finite.

    part                    layers                                             kMAC a pixel
    paper_body              5x5/2 64, 5x5/2 128, 3 residual units, 5x5/2 C               71
    lite_body               16x16/8 96, 3 residual units of 96, 3x3 C                     9
    Synthesis               3x3 128, 3 residual units, sub-pixel x2 to 64,
                            2 residual units, sub-pixel x4 to RGB                        30

References:
    Torfason et al., ICLR 2018, https://arxiv.org/abs/1803.06131 (the paper's encoder).
    Shi et al., Real-time single image super-resolution with sub-pixel convolution, CVPR 2016,
        https://arxiv.org/abs/1609.05158 (the decoder's upsampling).
    Malvar and Staelin, The LOT, 1989 (blocks that overlap by half leave no edges).
"""

from typing import cast

import torch
from torch import Tensor, nn

#: Side of the linear transforms' filters; they move by half of it.
LAP = 16


class ResidualUnit(nn.Module):
    """``x + conv(relu(conv(x)))``, 3x3 at constant width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.body(x))


def paper_synthesis(channels: int, width: float = 1.0) -> nn.Sequential:
    """Return the paper's decoder, the mirror of its encoder."""
    half, full = max(8, round(64 * width)), max(16, round(128 * width))

    def up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)

    return nn.Sequential(
        up(channels, full),
        nn.ReLU(inplace=True),
        *(ResidualUnit(full) for _ in range(3)),
        up(full, half),
        nn.ReLU(inplace=True),
        up(half, 3),
    )


def paper_body(channels: int, width: float = 1.0) -> nn.Sequential:
    """Return the paper's encoder, ``(B, 3, H, W)`` -> ``(B, channels, H/8, W/8)``."""
    half, full = max(8, round(64 * width)), max(16, round(128 * width))
    return nn.Sequential(
        nn.Conv2d(3, half, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, full, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        *(ResidualUnit(full) for _ in range(3)),
        nn.Conv2d(full, channels, 5, stride=2, padding=2),
    )


def lite_body(channels: int, width: float = 1.0) -> nn.Sequential:
    """Return an encoder that works at 1/8 resolution from its first layer on."""
    full = max(16, round(96 * width))
    return nn.Sequential(
        nn.Conv2d(3, full, LAP, stride=8, padding=4),
        nn.ReLU(inplace=True),
        *(ResidualUnit(full) for _ in range(3)),
        nn.Conv2d(full, channels, 3, padding=1),
    )


class Analysis(nn.Module):
    """Encoder: a lapped linear transform plus convolutions.

    Args:
        body: the convolutions, ``(B, 3, H, W)`` -> ``(B, C, H/8, W/8)``.
        channels: C.
    """

    def __init__(self, body: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.body = body
        self.linear = nn.Conv2d(3, channels, LAP, stride=8, padding=4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x)) + _outside_autocast(self.linear, x)


class Synthesis(nn.Module):
    """Decoder: ``(B, C, h, w)`` -> ``(B, 3, 8h, 8w)``; most of its work is done at 1/8 resolution.

    Args:
        channels: C.
        width: multiplies 128 and 64.
    """

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        full, half = max(16, round(128 * width)), max(8, round(64 * width))
        self.body = nn.Sequential(
            nn.Conv2d(channels, full, 3, padding=1),
            nn.ReLU(inplace=True),
            *(ResidualUnit(full) for _ in range(3)),
            nn.Conv2d(full, 4 * half, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(inplace=True),
            *(ResidualUnit(half) for _ in range(2)),
            nn.Conv2d(half, 3 * 16, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.linear = nn.ConvTranspose2d(channels, 3, LAP, stride=8, padding=4, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        return cast(Tensor, self.body(y)) + _outside_autocast(self.linear, y)


def _outside_autocast(linear: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Keep the linear paths in full precision: they cost nothing and carry most of the signal."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # "meta", where MACs are counted
        return cast(Tensor, linear(x))
    with torch.autocast(kind, enabled=False):
        return cast(Tensor, linear(x.to(linear.weight.dtype)))
