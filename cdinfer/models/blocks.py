"""Bottleneck blocks, the one building stone of ResNet and cResNet.

    x --1x1, mid--> --3x3, mid--> --1x1, 4 mid--> (+) --> (B, 4 mid, h/stride, w/stride)
    |                                              |
    +-- nothing, or 1x1 where shapes change -------+

Every convolution is followed by batch normalisation, all but the last of a branch by ReLU.
Modules and parameters carry torchvision's names, so its weights load. Sizes that the stride
does not divide round up.

References:
    He et al., Deep residual learning for image recognition, CVPR 2016,
        https://arxiv.org/abs/1512.03385 (block, stride in the first 1x1: ``v1``).
    He et al., Delving deep into rectifiers, ICCV 2015, https://arxiv.org/abs/1502.01852
        (initialisation).
"""

import math

from torch import Tensor, nn

#: Output channels of a block per channel of its 3x3 convolution.
EXPANSION = 4


class Bottleneck(nn.Module):
    """One residual block: ``(B, inputs, h, w)`` -> ``(B, 4 * mid, h/stride, w/stride)``.

    Args:
        inputs: number of input channels.
        mid: number of channels of the 3x3 convolution.
        stride: 1 or 2.
        v1: stride in the first 1x1 as published, which skips three quarters of the input;
            the default, in the 3x3, costs more and is what torchvision trains.
        dilation: distance between the taps of the 3x3.
    """

    def __init__(self, inputs: int, mid: int, stride: int, v1: bool, dilation: int = 1) -> None:
        super().__init__()
        first, second = (stride, 1) if v1 else (1, stride)
        outputs = EXPANSION * mid
        self.conv1 = nn.Conv2d(inputs, mid, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, 4 * mid, h/stride, w/stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += shortcut
        activated: Tensor = self.relu(out)
        return activated


def stage(
    inputs: int, mid: int, blocks: int, stride: int, v1: bool, dilation: int = 1
) -> nn.Sequential:
    """Chain ``blocks`` bottlenecks, the first of which takes the stride.

    With a dilation the first block keeps that of the stage before, half of it, as torchvision
    does: its input is not yet what a strided stage would have made of it.
    """
    first = Bottleneck(inputs, mid, stride, v1, max(1, dilation // 2))
    rest = (Bottleneck(EXPANSION * mid, mid, 1, v1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def plan_strides(output_stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return stride and dilation of the last two stages.

    A stage that does not halve its input spreads its 3x3 filters instead, so that they see as far
    (Chen et al., DeepLab, https://arxiv.org/abs/1606.00915, section 3.1).

    Raises:
        ValueError: unless ``output_stride`` is 8, 16 or 32.

    Example:
        >>> plan_strides(8)
        ((1, 2), (1, 4))
    """
    plans = {32: ((2, 1), (2, 1)), 16: ((2, 1), (1, 2)), 8: ((1, 2), (1, 4))}
    if output_stride not in plans:
        raise ValueError(
            f"expected output_stride 8, 16 or 32, got {output_stride}; 32 classifies, 8 segments"
        )
    return plans[output_stride]


def scale(channels: int, width: float) -> int:
    """Multiply a number of channels by ``width``, to the nearest multiple of 8, at least 8.

    Raises:
        ValueError: if ``width`` is not positive.

    Example:
        >>> scale(64, 0.5), scale(64, 0.3), scale(64, 0.01)
        (32, 16, 8)
    """
    if not width > 0:
        raise ValueError(f"width multiplies channels and must be above 0, got {width}; try 0.5")
    return max(8, 8 * round(channels * width / 8))


def initialise(net: nn.Module) -> None:
    """Draw every convolution from He's normal distribution (fan out), as torchvision does.

    The last gamma of a block stays 1: starting it at 0 trains a little better, but neither
    paper did, and tables made here shall compare networks and not initialisations.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            module.weight.data *= math.sqrt(module.groups)  # torch counts filters of all groups
