"""A cResNet that reads pixels in patches: latents against a cheaper front.

A cResNet on latents saves a ResNet's first layers, and reads a code made by a trained encoder. Here
is the same trunk with the first of the two alone: in front of it stands one learned 8x8 convolution
of stride 8, as wide as a patch has numbers, so that it need not lose anything.

    x (B, 3, 224, 224) --8x8/8, 192--> (B, 192, 28, 28) --cResNet--> 7x7x2048

Reference:
    Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021,
        https://arxiv.org/abs/2010.11929 (patches as the only stem).
"""

from typing import Literal

from torch import Tensor, nn

from cdinfer.models.cresnet import CResNet
from cdinfer.models.pixels import Normalise, check_pixels, pad
from cdinfer.models.trunk import Trunk

#: Pixels a patch is high and wide, as the codec's stride.
SIDE = 8


class PatchCResNet(Trunk):
    """Features of RGB pictures: ``(B, 3, H, W)`` in [0, 1] -> ``(B, F, H/32, W/32)``, or larger.

    Pictures are normalised inside and padded to whole patches.

    Args:
        channels: 3.
        stride: 1.
        sigma: false; pixels have no scales.
        depth, width, v1, output_stride: as :class:`~cdinfer.models.CResNet`'s.
        patch_channels: numbers made of a patch; ``width`` leaves them alone.

    Raises:
        ValueError: if the input is not RGB, or an option is out of range.
    """

    def __init__(
        self,
        channels: int = 3,
        stride: int = 1,
        sigma: bool = False,
        depth: Literal[39, 51, 72] = 39,
        width: float = 1.0,
        v1: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        patch_channels: int = 3 * SIDE**2,
    ) -> None:
        super().__init__()
        check_pixels("PatchCResNet", channels, stride, sigma)
        self.normalise = Normalise()
        self.stem = nn.Conv2d(3, patch_channels, SIDE, SIDE, bias=False)
        self.bn = nn.BatchNorm2d(patch_channels)
        self.cresnet = CResNet(patch_channels, SIDE, False, depth, width, v1, output_stride)
        self.out_channels = self.cresnet.out_channels
        self.reduction = SIDE * self.cresnet.reduction
        # by what comes in: patches do not overlap, and 192 filters would start 8 times too small
        nn.init.kaiming_normal_(self.stem.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(pad(self.normalise(x), SIDE)))  # (B, 192, H/8, W/8)
        features: Tensor = self.cresnet(x)
        return features
