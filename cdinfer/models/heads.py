"""Heads for dense prediction: features of a trunk -> one logit per class and position.

    head           reads                    logits at           made for
    ASPP           features                 the features' grid  output stride 8 (Torfason, DeepLab)
    LightDecoder   features and the input   1/8 of the pixels   output stride 16 or 32

    ASPP           features -+-- 3x3, rate 6 ---> K --+
                             +-- 3x3, rate 12 --> K --+--> (+) --> logits
                             +-- 3x3, rate 18 --> K --+
                             +-- 3x3, rate 24 --> K --+

    LightDecoder   features --1x1--> four 3x3s in a row, each added --enlarge--+
                   input --1x1, or 8x8 patches---------------------------------+--> 3x3 x 2

References:
    Chen et al., DeepLab, 2016, https://arxiv.org/abs/1606.00915 (ASPP: four parallel branches,
        their scores summed).
    Torfason et al., ICLR 2018, https://arxiv.org/abs/1803.06131, section 5 (rates 6, 12, 18, 24).
    Chen et al., DeepLabv3+, ECCV 2018, https://arxiv.org/abs/1802.02611 (a decoder that takes
        low-level features again; here the latents themselves).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdinfer.models.blocks import initialise, scale

#: Distances between the taps of ASPP's branches at output stride 8.
RATES = (6, 12, 18, 24)

#: Largest of such distances.
MAX_RATE = 2**12

#: Those of the light decoder, one behind the other, likewise; small enough for crops of 96 pixels.
#: In smaller ones outer taps meet nothing but padding, in whole pictures first, random weights.
DECODER_RATES = (2, 4, 6, 10)

#: Pixels per step of the light decoder's logits.
DECODER_STRIDE = 8


class Head(nn.Module, ABC):
    """Turns features into logits. Subclasses are final.

    Attributes:
        stride: pixels per step of the logits.
    """

    stride: int

    @abstractmethod
    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Map features ``(B, F, h', w')`` of the input ``x (B, C, h, w)`` to logits."""


class HeadRecipe(Protocol):
    """How to build a head once the trunk is known; a ``Head`` class is one."""

    def __call__(
        self, *, features: int, features_stride: int, channels: int, stride: int, num_classes: int
    ) -> Head:
        """Build the head.

        Args:
            features: channels F of the trunk's output.
            features_stride: pixels per step of it.
            channels: channels of the trunk's input.
            stride: pixels per step of that.
            num_classes: number of logits K.
        """
        ...


class ASPP(Head):
    """The paper's head: four dilated 3x3 classifiers, summed: logits ``(B, K, h', w')``.

    Rates are for output stride 8; coarser features take proportionally smaller ones, so that the
    branches see as far. They need crops of 320 pixels, as published, or so: in smaller ones the
    outer taps meet nothing but padding, and whole pictures would meet their first, random weights.

    Args:
        features, features_stride, channels, stride, num_classes: as every head's.
        rates: distance between the taps of each branch, at output stride 8.
    """

    def __init__(
        self,
        features: int,
        features_stride: int,
        channels: int,
        stride: int,
        num_classes: int,
        rates: Sequence[int] = RATES,
    ) -> None:
        super().__init__()
        self.stride = features_stride
        self.branches = nn.ModuleList(
            _branch(features, num_classes, _rate(rate, features_stride)) for rate in rates
        )

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Return the logits ``(B, K, h', w')``; the input itself is not looked at again."""
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


class LightDecoder(Head):
    """Coarse features for what, the input for where: logits ``(B, K, H/8, W/8)``.

    A trunk of output stride 8 spends most of its work on wide layers at 1/8 resolution. This head
    lets it stop at 1/16 or 1/32 and finds borders in the latents, which are at 1/8 anyway. Pixels
    come in as 8x8 patches.

    Args:
        features, features_stride, channels, stride, num_classes: as every head's.
        width: factor on the head's 192 channels.
        rates: distance between the taps of each 3x3 in the row, at output stride 8; their sum is
            how far the head sees.

    Raises:
        ValueError: if ``width`` is not positive, or the input is coarser than 1/8.
    """

    def __init__(
        self,
        features: int,
        features_stride: int,
        channels: int,
        stride: int,
        num_classes: int,
        width: float = 1.0,
        rates: Sequence[int] = DECODER_RATES,
    ) -> None:
        super().__init__()
        if stride > DECODER_STRIDE:
            raise ValueError(
                f"LightDecoder reads inputs of at most {DECODER_STRIDE} pixels a step, got "
                f"{stride}; use ASPP as head"
            )
        self.stride = DECODER_STRIDE
        mid, low = scale(192, width), scale(48, width)
        patch = self.patch = DECODER_STRIDE // stride
        self.factor = features_stride / DECODER_STRIDE
        self.reduce = _conv(features, mid, 1)
        self.branches = nn.ModuleList(
            _conv(mid, mid, 3, _rate(rate, features_stride), groups=mid) for rate in rates
        )
        self.mix = _conv(mid, mid, 1)
        self.low = nn.Sequential(
            nn.Conv2d(channels, low, patch, patch, bias=False), nn.BatchNorm2d(low), nn.ReLU(True)
        )
        self.fuse = nn.Sequential(_conv(mid + low, mid, 3), _conv(mid, mid, 3))
        self.classify = nn.Conv2d(mid, num_classes, 1)
        initialise(self)
        nn.init.normal_(self.classify.weight, std=0.01)  # as ASPP's
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Return the logits; the input's size, padded to whole patches, decides theirs."""
        x = F.pad(x, (0, -x.shape[-1] % self.patch, 0, -x.shape[-2] % self.patch))
        low = self.low(x)
        coarse = self.reduce(features)
        for branch in self.branches:
            coarse = coarse + branch(coarse)
        height, width = low.shape[-2:]
        coarse = F.interpolate(
            self.mix(coarse), scale_factor=self.factor, mode="bilinear", align_corners=False
        )[..., :height, :width]
        logits: Tensor = self.classify(self.fuse(torch.cat((coarse, low), 1)))
        return logits


def _rate(rate: int, features_stride: int) -> int:
    """Return a rate given for output stride 8 at another one, at least 1.

    Raises:
        ValueError: if no picture is as wide as that.
    """
    if not 1 <= rate <= MAX_RATE:
        raise ValueError(f"expected rates from 1 to {MAX_RATE}, got {rate}; use rates: {[*RATES]}")
    return max(1, round(rate * 8 / features_stride))


def _branch(features: int, num_classes: int, rate: int) -> nn.Conv2d:
    """Return a dilated classifier, which starts small as published (sigma 0.01)."""
    conv = nn.Conv2d(features, num_classes, 3, padding=rate, dilation=rate)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _conv(
    inputs: int, outputs: int, side: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = dilation * (side // 2)
    conv = nn.Conv2d(inputs, outputs, side, 1, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
