"""The contract between networks and the tasks that train them.

    recipe --(channels, stride, sigma)--> trunk: x (B, channels, h, w) -> (B, F, h', w')

A configuration file names a recipe, i.e. a class and its own options; the task completes
it with what only the codec knows, and puts a head on the trunk:

    net:
      class_path: CResNet
      init_args: {depth: 39, width: 0.5}
"""

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn


class Trunk(nn.Module, ABC):
    """A network without a head. Subclasses are final: implement, never override.

    Attributes:
        out_channels: number of feature channels F.
        reduction: steps of the input per step of the features, each way; heads that answer for
            every pixel ask for it.
    """

    out_channels: int
    reduction: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, h, w)`` to features ``(B, out_channels, h', w')``."""


class NetRecipe(Protocol):
    """How to build a trunk once the input is known; a ``Trunk`` class is one."""

    def __call__(self, *, channels: int, stride: int, sigma: bool) -> Trunk:
        """Build the trunk.

        Args:
            channels: number of input channels, latent planes or 3 for RGB.
            stride: pixels of the image per step of the input, 1 for pixels themselves.
            sigma: whether a second plane of scales follows.

        Raises:
            ValueError: if the network cannot read such an input.
        """
        ...
