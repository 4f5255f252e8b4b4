"""Dense prediction: a class for every pixel, whatever the trunk reads.

    x (B, C, h, w) --trunk--> features --head--> logits (B, K, h'', w'')
                                                   --enlarge, cut--> (B, K, H, W)

A step of the logits stands for ``stride`` pixels; the grid may reach beyond the picture, whose
right and bottom were padded before it was encoded, so logits are enlarged by whole numbers and cut.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdinfer.models.heads import HeadRecipe
from cdinfer.models.trunk import Trunk

#: Rows of pixels whose logits are made at a time.
STRIP = 128


class Segmenter(nn.Module):
    """A trunk and a head.

    Args:
        trunk: network without a head.
        head: recipe of the head.
        channels: channels of the trunk's input.
        stride: pixels per step of it.
        num_classes: K.
    """

    def __init__(
        self, trunk: Trunk, head: HeadRecipe, channels: int, stride: int, num_classes: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head(
            features=trunk.out_channels,
            features_stride=trunk.reduction * stride,
            channels=channels,
            stride=stride,
            num_classes=num_classes,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to logits ``(B, K, h'', w'')``, a step for ``stride`` pixels."""
        logits: Tensor = self.head(self.trunk(x), x)
        return logits

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits for each of ``size`` (height, width) pixels: ``(B, K, H, W)``."""
        factor = float(self.head.stride)
        logits = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]

    @torch.no_grad()
    def choose(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the most likely class of each of ``size`` pixels: uint8 ``(B, H, W)``, K <= 256.

        That is ``enlarge(...).argmax(1)`` of logits ``(B, K, h'', w'')``, made strip by strip, so
        that logits of all pixels, the largest thing here, need no memory and a cache can hold them;
        and with classes innermost, where enlarging and comparing run over neighbours in memory.
        """
        logits = logits.contiguous(memory_format=torch.channels_last)
        stride, (height, width) = self.head.stride, size
        best = torch.empty((len(logits), *size), dtype=torch.uint8, device=logits.device)
        steps = max(1, STRIP // stride)
        for top in range(0, -(-height // stride), steps):
            first = max(0, top - 1)  # pixels depend on one step more, above and below
            strip = logits[:, :, first : top + steps + 1]
            strip = self.enlarge(strip, (stride * (top - first + steps), width))
            part = best[:, stride * top : stride * (top + steps)]
            rows = stride * (top - first)
            part.copy_(strip[:, :, rows : rows + part.shape[1]].max(1).indices)
        return best
