"""cResNet: a ResNet that starts where the latents are.

A ResNet-50 reaches 28x28 after its stem and conv2_x. The latents of a 224x224 image are
already 28x28, so cResNet drops those layers and spends the savings on more conv4_x blocks.
``depth`` counts convolutions, 3 per bottleneck; shortcuts and the head are not counted:

    depth         conv3_x  conv4_x  conv5_x   GMAC at 28x28x16 (v1 / default)
    cResNet-39       4        6        3          2.95 / 3.11
    cResNet-51       4       10        3          3.83 / 3.98   (cost of ResNet-50)
    cResNet-72       4       17        3          5.35 / 5.51   (cost of ResNet-71)

    y (B, C, 28, 28) -> 28x28x512 -> 14x14x1024 -> 7x7x2048

For segmentation the paper keeps 28x28 to the end (``output_stride: 8``, "-d" in its tables),
with dilations of 2 and 4 in place of the strides.

Reference:
    Torfason et al., Towards image understanding from deep compression without decoding,
        ICLR 2018, https://arxiv.org/abs/1803.06131 (architectures, section 5).
"""

from typing import Literal

from torch import Tensor

from cdinfer.models.blocks import EXPANSION, initialise, plan_strides, scale, stage
from cdinfer.models.trunk import Trunk

#: Depth -> blocks of conv4_x.
CONV4_BLOCKS = {39: 6, 51: 10, 72: 17}


class CResNet(Trunk):
    """Features of latents: ``(B, C, h, w)`` -> ``(B, F, h/4, w/4)``, or larger.

    Stages are named ``layer2`` to ``layer4`` as in torchvision's ResNet; but for the first
    block, which reads C channels, and the added ones, its weights fit. Any size from 1x1 up
    works; odd ones round up. The first convolutions are followed by batch normalisation, so
    the scale of the latents does not matter.

    Args:
        channels: latent channels C.
        stride: pixels per latent step, above 1; the network is the same for all.
        sigma: false; this network does not read scales.
        depth: 39, 51 or 72.
        width: factor on all channel counts; F is 2048 at 1.
        v1: stride in the first 1x1 convolution of a block, as published, not in the 3x3.
        output_stride: pixels per step of the features, for a codec of stride 8: 32; for dense
            prediction 16, features ``(B, F, h/2, w/2)``, or 8, ``(B, F, h, w)``.

    Raises:
        ValueError: if the input is pixels or has scales, or ``depth``, ``width`` or
            ``output_stride`` is out of range.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        sigma: bool = False,
        depth: Literal[39, 51, 72] = 39,
        width: float = 1.0,
        v1: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
    ) -> None:
        super().__init__()
        if stride == 1:
            raise ValueError(
                f"cResNet reads latents (stride above 1), got stride 1 with {channels} channels; "
                "use a ResNet as pixel_net, or input: latents"
            )
        if sigma:
            raise ValueError(
                "cResNet reads latents without scales, got sigma: true; use a network that reads "
                "both planes, or a codec without scales such as --codec cae"
            )
        if depth not in CONV4_BLOCKS:
            known = list(CONV4_BLOCKS)
            raise ValueError(f"cResNet has depths {known}, got {depth}; use depth: 51")
        mids = [scale(planes, width) for planes in (128, 256, 512)]
        self.layer2 = stage(channels, mids[0], 4, 1, v1)
        (stride3, dilation3), (stride4, dilation4) = plan_strides(output_stride)
        blocks = CONV4_BLOCKS[depth]
        self.layer3 = stage(EXPANSION * mids[0], mids[1], blocks, stride3, v1, dilation3)
        self.layer4 = stage(EXPANSION * mids[1], mids[2], 3, stride4, v1, dilation4)
        self.out_channels, self.reduction = EXPANSION * mids[2], stride3 * stride4
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer4(self.layer3(self.layer2(x)))
        return features
