r"""Soft-to-hard scalar quantisation with learned centers, and what its symbols cost.

    z --nearest center--> symbol s --centers[s]--> y        forward
    z --softmax(-hardness * (z - c)^2)--> q --q @ c--> y    backward

The forward pass sees exactly what the bitstream stores; gradients reach z and the centers
through the soft assignment q.

The rate of a symbol is its code length under the running per-channel histogram p, the same
statistics the coder's integer tables are built from. Its value is that of the hard symbol,
its gradient that of :math:`-\sum_j q_j \log_2 p_j`.

References:
    Agustsson et al., Soft-to-hard vector quantization for end-to-end learning compressible
        representations, NeurIPS 2017, https://arxiv.org/abs/1704.00648 (soft assignment and
        histogram entropy).
    Mentzer et al., Conditional probability models for deep image compression, CVPR 2018,
        https://arxiv.org/abs/1801.04260 (hard forward, soft backward, one hardness).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """Result of :func:`quantize`.

    Attributes:
        y: ``(B, C, h, w)`` centers of the symbols; gradients of the soft assignment.
        symbols: ``(B, C, h, w)`` int64 in [0, L).
        soft: ``(B, C, h, w, L)`` soft assignment, sums to one over L.
    """

    y: Tensor
    symbols: Tensor
    soft: Tensor


def nearest(z: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the nearest of ``centers (L,)``; a tie goes to the first.

    Example:
        >>> nearest(torch.tensor([-3.0, 0.4, 0.6]), torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0, 1, 2])
    """
    return (z.unsqueeze(-1) - centers).abs().argmin(-1)


def quantize(z: Tensor, centers: Tensor, hardness: float = 1.0) -> Quantized:
    """Quantise ``z (B, C, h, w)`` to ``centers (L,)``; see the module's formulas.

    Example:
        >>> quantize(torch.full((1, 1, 1, 1), 0.9), torch.tensor([-1.0, 1.0])).y
        tensor([[[[1.]]]])
    """
    distance = (z.unsqueeze(-1) - centers) ** 2
    soft = torch.softmax(-hardness * distance, dim=-1)
    y_soft = soft @ centers
    symbols = distance.detach().argmin(-1)
    y_hard = centers.detach()[symbols]
    return Quantized(y_soft + (y_hard - y_soft).detach(), symbols, soft)


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


def code_length(quantized: Quantized, probabilities: Tensor) -> Tensor:
    """Return the bits of every symbol under ``probabilities (C, L)``: ``(B, C, h, w)``.

    Example:
        >>> q = quantize(torch.zeros(1, 1, 1, 2), torch.tensor([-1.0, 0.0]))
        >>> code_length(q, torch.tensor([[0.75, 0.25]]))
        tensor([[[[2., 2.]]]])
    """
    cost = -torch.log2(probabilities)  # (C, L)
    soft_bits = torch.einsum("bchwl,cl->bchw", quantized.soft, cost)
    channel = torch.arange(cost.shape[0], device=cost.device).view(1, -1, 1, 1)
    hard_bits = cost[channel, quantized.symbols]
    return soft_bits + (hard_bits - soft_bits).detach()
