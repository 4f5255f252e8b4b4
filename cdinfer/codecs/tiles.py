"""Large pictures, part by part, with the result of the whole.

    x (B, 3, H, W) --tile and what it sees--> net --less what the cut spoilt--> (B, C, H/8, W/8)

An output of a convolutional net depends on a finite stretch of its input (`seen`, from the layers
alone). So a tile is cut with a halo of that width, on the codec's grid, and what the net makes of
the halo is left out. Where the picture ends there is no halo: the net pads with zeros there, as it
does for the whole. Memory then follows the tile, not the picture.

Sums of floats may be formed in another order for another shape, so outputs are those of the whole
but for rounding.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from cdinfer.codecs.networks import Analysis, ResidualUnit, Synthesis


class Part(NamedTuple):
    """One stretch of rows, or of columns.

    Attributes:
        source: of the input, halo included.
        inner: of the net's output for ``source``, what is right.
        target: of the whole output, where ``inner`` goes.
    """

    source: slice
    inner: slice
    target: slice


def seen(net: nn.Module, first: int, last: int) -> tuple[int, int]:
    """Return the first and last input row that the output rows ``first`` to ``last`` depend on.

    Rows below 0 and beyond the end are the zeros that layers pad with. Nets here are square, so
    what holds for rows holds for columns.

    Example:
        >>> seen(nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU()), 0, 1)
        (-2, 4)
    """
    if isinstance(net, nn.Sequential):
        for layer in reversed(net):
            first, last = seen(layer, first, last)
        return first, last
    if isinstance(net, nn.Conv2d):
        stride, padding, side = net.stride[0], cast(int, net.padding[0]), net.kernel_size[0]
        return first * stride - padding, last * stride - padding + side - 1
    if isinstance(net, nn.ConvTranspose2d):
        stride, padding, side = net.stride[0], cast(int, net.padding[0]), net.kernel_size[0]
        return -((side - 1 - first - padding) // stride), (last + padding) // stride
    if isinstance(net, nn.PixelShuffle):
        return first // net.upscale_factor, last // net.upscale_factor
    if isinstance(net, ResidualUnit):
        return _union((first, last), seen(net.body, first, last))
    if isinstance(net, Analysis | Synthesis):
        return _union(seen(net.linear, first, last), seen(net.body, first, last))
    assert isinstance(net, nn.ReLU), net
    return first, last


def parts(net: nn.Module, steps: int, side: int, grain: tuple[int, int]) -> Iterator[Part]:
    """Cut a side of ``steps`` grid steps into nearly equal parts of at most ``side`` steps each.

    Args:
        net: what is run on each tile.
        steps: length of the whole.
        side: longest part.
        grain: rows of input and of output in a grid step.
    """
    into, out = grain
    count = math.ceil(steps / side)
    for number in range(count):
        start, stop = steps * number // count, steps * (number + 1) // count
        first, last = seen(net, start * out, stop * out - 1)
        low, high = max(0, first // into), min(steps, last // into + 1)
        yield Part(
            slice(low * into, high * into),
            slice((start - low) * out, (stop - low) * out),
            slice(start * out, stop * out),
        )


def run(
    net: nn.Module, work: Callable[[Tensor], Tensor], x: Tensor, side: int, grain: tuple[int, int]
) -> Tensor:
    """Return ``work(x)``, made of tiles if ``x`` is longer or wider than one.

    Args:
        net: the network in ``work``; what else it does, it does to single places.
        work: ``(B, C, H, W)`` -> ``(B, C', H', W')``.
        x: the whole input; its last grid step may be short.
        side: longest side of a tile without its halo, in grid steps.
        grain: rows of input and of output in a grid step.
    """
    height, width = (math.ceil(length / grain[0]) for length in x.shape[-2:])
    if max(height, width) <= side:
        return work(x)
    whole = None
    for rows in parts(net, height, side, grain):
        for columns in parts(net, width, side, grain):
            tile = work(x[..., rows.source, columns.source])
            if whole is None:
                shape = (*tile.shape[:2], height * grain[1], width * grain[1])
                whole = torch.empty(shape, dtype=tile.dtype, device=tile.device)
            whole[..., rows.target, columns.target] = tile[..., rows.inner, columns.inner]
    assert whole is not None
    return whole


def _union(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return min(one[0], other[0]), max(one[1], other[1])
