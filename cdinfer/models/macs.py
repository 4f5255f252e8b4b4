"""What a network costs: multiply-accumulates of its convolutions and linear layers.

One multiplication with its addition is one MAC, half of what others call two FLOPs. Biases,
normalisation, activations, pooling and resizing are left out, as in the papers' tables.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def count_macs(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Return the MACs of one call of ``module`` on tensors of these shapes.

    Counts modules of type ``Conv2d``, ``ConvTranspose2d`` and ``Linear``; what calls
    ``torch.nn.functional`` directly goes uncounted. Nothing is computed (shapes alone
    travel through a copy on the meta device) and ``module`` stays as it is.

    Args:
        module: network in any mode, on any device.
        shapes: one per input; a batch of 1 gives the cost per image.

    Example:
        >>> count_macs(nn.Conv2d(3, 64, 5, stride=2, padding=2), (1, 3, 224, 224))  # 112² · 64 · 75
        60211200
    """
    total = 0

    def add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.ConvTranspose2d):  # every input meets one filter
            total += args[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Conv2d | nn.Linear):  # every output is one filter's sum
            total += output.numel() * layer.weight[0].numel()

    twin = copy.deepcopy(module).to("meta").eval()
    for layer in twin.modules():
        layer.register_forward_hook(add)
    with torch.no_grad():
        twin(*(torch.empty(shape, device="meta") for shape in shapes))
    return total
