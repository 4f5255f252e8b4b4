"""What networks on pixels share: colours around 0, sizes a stride divides, one refusal."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Mean and standard deviation of ImageNet's RGB in [0, 1], which torchvision's weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """RGB ``(B, 3, H, W)`` in [0, 1] -> mean 0 and deviation 1 over ImageNet; no parameters."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def pad(x: Tensor, unit: int) -> Tensor:
    """Repeat the last row and column until ``unit`` divides both sides, as codecs do.

    Example:
        >>> pad(torch.zeros(1, 3, 16, 9), 8).shape
        torch.Size([1, 3, 16, 16])
    """
    below, right = -x.shape[-2] % unit, -x.shape[-1] % unit
    return F.pad(x, (0, right, 0, below), mode="replicate")  # no if: engines convert this


def check_pixels(name: str, channels: int, stride: int, sigma: bool) -> None:
    """Refuse what is not RGB.

    Raises:
        ValueError: naming the network and what to use in its place.
    """
    if channels != 3 or stride != 1 or sigma:
        raise ValueError(
            f"{name} reads RGB pixels (channels 3, stride 1, no sigma), got channels "
            f"{channels}, stride {stride}, sigma {sigma}; use a CResNet as net for latents, "
            "or input: decoded or original with this network as pixel_net"
        )
