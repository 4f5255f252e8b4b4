"""ResNet on pixels: what networks on latents are measured against.

``depth`` counts the convolutions, 3 per bottleneck, and the classifier's linear layer:

    depth        conv1  conv2_x  conv3_x  conv4_x  conv5_x   GMAC at 224x224 (v1 / default)
    ResNet-50      1       3        4        6        3          3.86 / 4.09
    ResNet-71      1       3        4       13        3          5.39 / 5.62

    x (B, 3, 224, 224) -> 56x56x64 -> 56x56x256 -> 28x28x512 -> 14x14x1024 -> 7x7x2048

References:
    He et al., Deep residual learning for image recognition, CVPR 2016,
        https://arxiv.org/abs/1512.03385 (ResNet-50).
    Torfason et al., Towards image understanding from deep compression without decoding,
        ICLR 2018, https://arxiv.org/abs/1803.06131 (ResNet-71).
"""

from typing import Literal

from torch import Tensor, nn

from cdinfer.models.blocks import EXPANSION, initialise, plan_strides, scale, stage
from cdinfer.models.pixels import Normalise, check_pixels
from cdinfer.models.trunk import Trunk

#: Depth -> blocks of conv4_x.
CONV4_BLOCKS = {50: 6, 71: 13}


class ResNet(Trunk):
    """Features of RGB images: ``(B, 3, H, W)`` in [0, 1] -> ``(B, F, H/32, W/32)``, or larger.

    Parameters carry torchvision's names: the weights of its ``resnet50``, without ``fc``, load
    into ``depth=50``. Images are normalised inside. Any size works; odd ones round up.

    Args:
        channels: 3.
        stride: 1.
        sigma: false; pixels have no scales.
        depth: 50 or 71.
        width: factor on all channel counts; F is 2048 at 1.
        v1: stride in the first 1x1 convolution of a block, as published, not in the 3x3.
        output_stride: pixels per step of the features: 32; for dense prediction 16 or 8, with
            dilations of 2 and 4 in place of strides (ResNet-50-d, ResNet-71-d).

    Raises:
        ValueError: if the input is not RGB, or ``depth``, ``width`` or ``output_stride`` is out
            of range.
    """

    def __init__(
        self,
        channels: int = 3,
        stride: int = 1,
        sigma: bool = False,
        depth: Literal[50, 71] = 50,
        width: float = 1.0,
        v1: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
    ) -> None:
        super().__init__()
        check_pixels("ResNet", channels, stride, sigma)
        if depth not in CONV4_BLOCKS:
            raise ValueError(f"ResNet has depths {list(CONV4_BLOCKS)}, got {depth}; use depth: 50")
        stem, *mids = (scale(planes, width) for planes in (64, 64, 128, 256, 512))
        self.normalise = Normalise()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(stem, mids[0], 3, 1, v1)
        self.layer2 = stage(EXPANSION * mids[0], mids[1], 4, 2, v1)
        (stride3, dilation3), (stride4, dilation4) = plan_strides(output_stride)
        blocks = CONV4_BLOCKS[depth]
        self.layer3 = stage(EXPANSION * mids[1], mids[2], blocks, stride3, v1, dilation3)
        self.layer4 = stage(EXPANSION * mids[2], mids[3], 3, stride4, v1, dilation4)
        self.out_channels, self.reduction = EXPANSION * mids[3], output_stride
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalise(x)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, H/4, W/4)
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features
