r"""Scalar quantisation, and what it costs while a codec trains.

Two ways, one interface. `Steps` is what the shipped codecs use: each channel has a learned step,
numbers are rounded, the estimate comes from a causal prior:

    k = round(z / step)        forward to the decoder; the gradient passes as if nothing was rounded
    bits of z / step + noise   under the prior's logistic, given the numbers decoded before

`SoftToHard` is the paper's: each entry of z goes to the nearest of L learned centers, one vector
for all channels; the backward pass sees the expected center, and the rate is the expected code
length under a running histogram of each channel:

.. math:: w_l \propto \exp(-\sigma (z - c_l)^2), \qquad y = \sum_l w_l c_l

References:
    Agustsson et al., Soft-to-hard vector quantization, NeurIPS 2017,
        https://arxiv.org/abs/1704.00648 (soft assignment, histogram entropy).
    Mentzer et al., Conditional probability models for deep image compression, CVPR 2018,
        https://arxiv.org/abs/1801.04260 (hard forward, soft backward, one hardness; L = 6).
    Minnen and Singh, ICIP 2020, https://arxiv.org/abs/2007.08739 (noise and rounding mixed).
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdinfer.codecs.prior import CausalPrior, logistic_bits

#: Numbers of `Steps` lie within -LIMIT..LIMIT.
LIMIT = 63

#: Least probability the histogram gives a symbol: one count of the coder's 12-bit tables.
LEAST = 2.0**-12


class Quantized(NamedTuple):
    """Latents on their way to the decoder.

    Attributes:
        y: ``(B, C, h, w)`` what decoder and networks see; differentiable.
        bits: ``(B, C, h, w)`` estimated code length, differentiable.
    """

    y: Tensor
    bits: Tensor


class Quantizer(nn.Module, ABC):
    """From the encoder's output z to whole numbers k and to the values they stand for."""

    @property
    @abstractmethod
    def limits(self) -> tuple[int, int]:
        """The least and the largest k there is; 0 lies between."""

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantise ``z (B, C, h, w)``."""

    @abstractmethod
    def numbers(self, z: Tensor) -> Tensor:
        """Return k of ``z (B, C, h, w)``: int16, same shape."""

    @abstractmethod
    def values(self, k: Tensor) -> Tensor:
        """Return what numbers ``k (C, n)`` stand for, rising with k; beyond the ends, the ends."""


class _Round(torch.autograd.Function):
    """Round; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.round().clamp(-LIMIT, LIMIT)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


class Steps(Quantizer):
    """Uniform quantisation with a learned step in each channel.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.zeros(channels))
        self.prior = CausalPrior(channels)

    @property
    def limits(self) -> tuple[int, int]:
        return -LIMIT, LIMIT

    def forward(self, z: Tensor) -> Quantized:
        step = self.log_step.exp().view(1, -1, 1, 1)
        z = z / step
        k: Tensor = _Round.apply(z)
        mean, scale = self.prior(k)
        noisy = z + torch.rand_like(z) - 0.5 if self.training else k
        return Quantized(k * step, logistic_bits(noisy, mean, scale))

    def numbers(self, z: Tensor) -> Tensor:
        k = z / self.log_step.exp().view(1, -1, 1, 1)
        return k.round().clamp(-LIMIT, LIMIT).to(torch.int16)

    def values(self, k: Tensor) -> Tensor:
        return k.clamp(-LIMIT, LIMIT) * self.log_step.exp().view(-1, 1)


class SoftToHard(Quantizer):
    """L learned centers for all channels.

    Args:
        channels: C.
        levels: L.
        hardness: sigma of the soft assignment.
    """

    def __init__(self, channels: int, levels: int = 6, hardness: float = 1.0) -> None:
        super().__init__()
        self.hardness = hardness
        self.centers = nn.Parameter(torch.linspace(-2, 2, levels))
        #: Running symbol probabilities (C, L); moves by 2 % a training step.
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.full((channels, levels), 1 / levels))

    @property
    def limits(self) -> tuple[int, int]:
        return -self._zero(), len(self.centers) - 1 - self._zero()

    def forward(self, z: Tensor) -> Quantized:
        distance = (z.unsqueeze(-1) - self.centers) ** 2
        soft = torch.softmax(-self.hardness * distance, dim=-1)
        symbols = distance.detach().argmin(-1)
        if self.training:
            with torch.no_grad():
                counts = histogram(symbols, len(self.centers)).float()
                self.frequencies.lerp_(counts / counts.sum(-1, keepdim=True), 0.02)
        cost = -torch.log2(self.frequencies.clamp(min=LEAST))
        channel = torch.arange(len(cost), device=cost.device).view(1, -1, 1, 1)
        soft_bits = torch.einsum("bchwl,cl->bchw", soft, cost)
        y_soft = soft @ self.centers
        return Quantized(
            _hard_forward(self.centers[symbols], y_soft),
            _hard_forward(cost[channel, symbols], soft_bits),
        )

    def numbers(self, z: Tensor) -> Tensor:
        centers = self.centers.detach().sort().values
        symbols = torch.bucketize(z.contiguous(), (centers[1:] + centers[:-1]) / 2)
        return (symbols - self._zero()).to(torch.int16)

    def values(self, k: Tensor) -> Tensor:
        centers = self.centers.detach().sort().values
        return centers[(k.long() + self._zero()).clamp(0, len(centers) - 1)]

    def _zero(self) -> int:
        """The place, among the sorted centers, of the one nearest to 0."""
        return int(self.centers.detach().sort().values.abs().argmin())


def _hard_forward(hard: Tensor, soft: Tensor) -> Tensor:
    return soft + (hard - soft).detach()


def histogram(symbols: Tensor, levels: int) -> Tensor:
    """Count symbols per channel: ``(B, C, h, w)`` -> int64 ``(C, levels)``.

    Example:
        >>> histogram(torch.tensor([[[[0, 2]]], [[[2, 2]]]]), 3)
        tensor([[1, 0, 3]])
    """
    channels = symbols.shape[1]
    offset = torch.arange(channels, device=symbols.device).view(1, -1, 1, 1) * levels
    flat = (symbols.long() + offset).flatten()
    return torch.bincount(flat, minlength=channels * levels).view(channels, levels)


def entropy(counts: Tensor) -> Tensor:
    """Return the entropy of each row of ``counts (C, L)``, in bits per symbol.

    Example:
        >>> entropy(torch.tensor([[1, 1], [4, 0]]))
        tensor([1., 0.])
    """
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    nats: Tensor = torch.special.entr(p).sum(-1)
    return nats / math.log(2)


def nearest(z: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
    """Return the index of the nearest center of each channel: uint8, ``(B, C, h, w)``.

    Args:
        z: ``(B, C, h, w)``.
        centers: ``(C, L)``, rising over the first ``sizes[c]`` of each row.
        sizes: ``(C,)``.

    A tie goes to the first.

    Example:
        >>> z = torch.tensor([-3.0, 0.5, 0.6, 9.0]).view(1, 1, 2, 2)
        >>> nearest(z, torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([3])).flatten()
        tensor([0, 1, 2, 2], dtype=torch.uint8)
    """
    borders = (centers[:, 1:] + centers[:, :-1]) / 2
    planes = [
        torch.bucketize(z[:, c].contiguous(), borders[c, : int(size) - 1], out_int32=True)
        for c, size in enumerate(sizes.tolist())
    ]
    return torch.stack(planes, dim=1).to(torch.uint8)
