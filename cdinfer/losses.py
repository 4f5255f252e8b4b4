r"""Losses of the compression task, and later of the joint one.

Distortion is on the papers' scale, squared error of 0..255 images; beta trades it for rate, but
only above a target entropy:

.. math:: L = D + \beta \max(H - H_t, 0), \qquad D = 255^2 \, \mathrm{MSE}(x, \hat x)

Reference:
    Torfason et al., ICLR 2018, https://arxiv.org/abs/1803.06131 (target entropy).
"""

import torch.nn.functional as F
from torch import Tensor


def distortion(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return D, the mean squared error of images in [0, 1] on the scale of 0..255.

    Example:
        >>> import torch
        >>> distortion(torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8))
        tensor(16256.2500)
    """
    return 255**2 * F.mse_loss(x_hat, x)


def compression_loss(d: Tensor, entropy: Tensor, target: Tensor, beta: float) -> Tensor:
    """Return L.

    Args:
        d: distortion D, scalar.
        entropy: H, scalar, bits per symbol.
        target: H_t, scalar, bits per symbol.
        beta: price of one bit per symbol above the target.

    Example:
        >>> import torch
        >>> compression_loss(torch.tensor(100.0), torch.tensor(1.5), torch.tensor(1.0), 150.0)
        tensor(175.)
    """
    return d + beta * F.relu(entropy - target)
