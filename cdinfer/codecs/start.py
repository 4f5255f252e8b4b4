"""Where training starts: as a transform codec, the principal components of 8x8 blocks.

    blocks of 8x8 RGB --covariance--> C components --> linear encoder and decoder, steps

The convolutions beside the linear paths start small, so the first step already sees pictures of a
usable quality near the target rate. From random weights the same quality takes about a thousand
steps.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cdinfer.codecs.base import pad_to_multiple
from cdinfer.codecs.cae import CAE
from cdinfer.codecs.networks import LAP, Analysis, Synthesis
from cdinfer.codecs.quantizer import LIMIT, Steps

#: Side of the blocks; the filters are twice as large and start as zeros around them.
BLOCK = 8

#: Blocks taken of each picture, and the rate aimed at over the nominal one: contexts save more.
BLOCKS, GENEROUS = 300, 1.2

#: Share of their usual size that the last convolutions start with.
SMALL = 0.1


@torch.no_grad()
def start_as_transform(codec: CAE, images: Iterable[Tensor], generator: torch.Generator) -> None:
    """Set linear paths, steps and prior of an untrained ``codec`` of one of our designs.

    Args:
        codec: of design ``cae`` or ``cae-lite``; others are left alone.
        images: training pictures ``(3, H, W)`` in [0, 1].
        generator: draws the blocks.
    """
    g_a, g_s, steps = codec.g_a, codec.g_s, codec.quantizer
    if not (isinstance(g_a, Analysis) and isinstance(g_s, Synthesis) and isinstance(steps, Steps)):
        return
    blocks = torch.cat([_blocks(image, generator) for image in images])
    blocks = ((blocks - codec.mean.cpu()) / codec.std.cpu()).flatten(1)
    values, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    variance = values.flip(0)[: codec.channels].clamp(min=0)
    components = vectors.flip(1)[:, : codec.channels]
    step = _step_for(blocks @ components, GENEROUS * codec.bpp * BLOCK**2)
    scale = 1 / (step**2 + variance).sqrt()  # outputs of about unit variance
    middle = slice((LAP - BLOCK) // 2, (LAP + BLOCK) // 2)
    for weight, filters in (
        (g_a.linear.weight, components.T * scale[:, None]),
        (g_s.linear.weight, components.T / scale[:, None]),
    ):
        weight.zero_()
        weight[:, :, middle, middle] = filters.reshape(-1, 3, BLOCK, BLOCK).to(weight)
    for body in (g_a.body, g_s.body):
        last = [layer for layer in body if isinstance(layer, nn.Conv2d)][-1]
        last.weight.mul_(SMALL)
        assert last.bias is not None
        last.bias.zero_()
    steps.log_step.copy_((step * scale).log())
    spread = (0.3 * variance.sqrt() / step).clamp(min=0.1)
    steps.prior.bias.copy_(spread + (-(-spread).expm1()).log())  # softplus of it is the spread
    for channel in range(codec.channels):
        for row, column in ((0, 1), (1, 0)):  # above and left
            steps.prior.mean[channel, channel, row, column] = 0.3


def _blocks(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return up to ``BLOCKS`` blocks ``(n, 3, 8, 8)`` of a picture, on the grid of its origin."""
    if min(image.shape[-2:]) < BLOCK:
        image = pad_to_multiple(image[None], BLOCK)[0]
    height, width = (side // BLOCK * BLOCK for side in image.shape[-2:])
    grid = image[:, :height, :width].cpu().unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
    blocks = grid.permute(1, 2, 0, 3, 4).reshape(-1, 3, BLOCK, BLOCK)
    return blocks[torch.randperm(len(blocks), generator=generator)[:BLOCKS]]


def _step_for(coefficients: Tensor, bits: float) -> float:
    """Return the step at which a block of ``coefficients (n, C)`` has an entropy of ``bits``."""
    low, high = 0.01, 30.0
    for _ in range(30):
        step = math.sqrt(low * high)
        k = (coefficients / step).round().long().clamp(-LIMIT, LIMIT) + LIMIT
        counts = torch.stack([torch.bincount(c, minlength=2 * LIMIT + 1) for c in k.T])
        entropy = float(torch.special.entr(counts / len(k)).sum()) / math.log(2)
        low, high = (step, high) if entropy > bits else (low, step)
    return math.sqrt(low * high)
