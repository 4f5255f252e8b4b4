"""What a symbol will cost under a context model, differentiable: the rate while a codec trains.

    k (B, C, h, w) --causal taps--> mean, scale --logistic--> bits (B, C, h, w)

The taps are those a `bitstream.context` model may use: left, above left, above and above right in
the same channel, all 3x3 places around in earlier channels. So latents learn to be what the integer
tables, fitted once training has ended, can predict; real payloads come out about 5 % smaller than
this estimate, since tables know shapes that a logistic does not.

References:
    Ballé et al., Variational image compression with a scale hyperprior, ICLR 2018,
        https://arxiv.org/abs/1802.01436 (bits as differences of a cumulative under noise).
    Minnen and Singh, Channel-wise autoregressive entropy models, ICIP 2020,
        https://arxiv.org/abs/2007.08739 (noise for the rate, rounding for the decoder; contexts
        from earlier channels).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Least scale of the logistic: below it, a certain symbol costs nearly nothing.
LEAST_SCALE = 0.06


class CausalPrior(nn.Module):
    """Mean and scale of each number, linear in its decoded neighbours.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels, channels, 3, 3))
        self.act = nn.Parameter(torch.full((channels, channels, 3, 3), -5.0))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mbias = nn.Parameter(torch.zeros(channels))
        mask = torch.zeros(channels, channels, 3, 3)
        for channel in range(channels):
            mask[channel, :channel] = 1
            mask[channel, channel, 0] = 1
            mask[channel, channel, 1, 0] = 1
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale of ``k (B, C, h, w)``, given the numbers decoded before each."""
        mean = F.conv2d(k, self.mean * self.mask, self.mbias, padding=1)
        size = (k.square() + 1e-4).sqrt()
        scale = F.conv2d(size, F.softplus(self.act) * self.mask, padding=1)
        scale = scale + F.softplus(self.bias).view(1, -1, 1, 1)
        return mean, scale.clamp(min=LEAST_SCALE)


def logistic_bits(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the bits of the unit interval around ``z`` under a logistic; at most 12.

    Example:
        >>> logistic_bits(torch.zeros(1), torch.zeros(1), torch.ones(1))  # 2 sigmoid(1/2) - 1
        tensor([2.0296])
    """
    distance = (z - mean).abs()
    p = torch.sigmoid((0.5 - distance) / scale) - torch.sigmoid((-0.5 - distance) / scale)
    return -p.clamp(min=2.0**-12).log2()
