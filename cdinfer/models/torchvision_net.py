"""Classifiers of torchvision as trunks on pixels: baselines that others wrote.

    x (B, 3, H, W) --normalise--> net.features --> (B, F, H/32, W/32)

What a network does behind its ``features`` is left out, our heads take its place: of
MobileNetV3-Large that is a hidden layer of 1,280 channels, of ConvNeXt-Tiny a normalisation.

References:
    Howard et al., Searching for MobileNetV3, ICCV 2019, https://arxiv.org/abs/1905.02244.
    Liu et al., A ConvNet for the 2020s, CVPR 2022, https://arxiv.org/abs/2201.03545.
"""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from cdinfer.models.pixels import Normalise, check_pixels, pad
from cdinfer.models.trunk import Trunk

#: Side of the pictures that a network is measured with.
SIDE = 224

#: A batch's share in the running statistics of batch normalisation. Mobile networks come with 0.01,
#: for trainings of 10^5 steps; after hundreds, theirs would still be those of the first weights.
MOMENTUM = 0.1

_HINT = "use mobilenet_v3_large or convnext_tiny"


class TorchvisionNet(Trunk):
    """Features of RGB pictures: ``(B, 3, H, W)`` in [0, 1] -> ``(B, F, H/32, W/32)``, rounded up.

    Networks that would drop a remainder of pixels get pictures padded.

    Args:
        channels: 3.
        stride: 1.
        sigma: false; pixels have no scales.
        name: a classifier of ``torchvision.models`` that has ``features``.
        width: factor on channel counts, of MobileNets alone.
        weights: ``DEFAULT``, or torchvision's name for trained weights to start from; training
            calls :meth:`load_weights`, nothing else needs them.

    Raises:
        ValueError: if the input is not RGB, or there is no such network or no such weights.
    """

    def __init__(
        self,
        channels: int = 3,
        stride: int = 1,
        sigma: bool = False,
        name: str = "mobilenet_v3_large",
        width: float = 1.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_pixels("TorchvisionNet", channels, stride, sigma)
        with torch.device("meta"):  # shapes alone, before any weight is drawn
            skeleton = _build(name, width).eval()
            shape = skeleton(torch.empty(1, 3, SIDE, SIDE)).shape
            steps = skeleton(torch.empty(1, 3, SIDE + 1, SIDE + 1)).shape[2]
        if shape[2] != shape[3] or SIDE % shape[2]:
            raise ValueError(f"the features of {name} are no grid; {_HINT}")
        self.out_channels, self.reduction = shape[1], SIDE // shape[2]
        self._unit = 1 if steps > shape[2] else self.reduction
        self._weights = None if weights is None else _find_weights(name, width, weights)
        self.normalise = Normalise()
        self.features = _build(name, width)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(pad(self.normalise(x), self._unit))
        return features

    def load_weights(self) -> None:
        """Start from the trained weights, if some were named; they are fetched once, and kept.

        Raises:
            ValueError: if they cannot be fetched, or are damaged.
        """
        if self._weights is None:
            return
        prefix, url = "features.", self._weights.url
        place = f"{torch.hub.get_dir()}/checkpoints/"
        try:
            state = self._weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
            mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            self.features.load_state_dict(mine)
        except OSError as error:
            raise ValueError(
                f"cannot fetch {url} ({error}): put that file into {place}, or leave out weights"
            ) from error
        except Exception as error:  # torch raises nearly anything on damaged files
            name = url.rpartition("/")[2]
            raise ValueError(f"damaged {place}{name}: delete it, to fetch it again") from error


def _build(name: str, width: float) -> nn.Module:
    """Return the part of a network that we use.

    Raises:
        ValueError: if there is none.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else _HINT
        raise ValueError(f"torchvision has no classifier '{name}'; {hint}")
    if width != 1 and not name.startswith("mobilenet"):
        raise ValueError(f"{name} has one width, got {width}; use mobilenet_v3_large, or width: 1")
    options = {} if width == 1 else {"width_mult": width}
    net = models.get_model(name, **options)
    features = getattr(net, "features", None)
    if not isinstance(features, nn.Module):
        raise ValueError(f"{name} has no features to take; {_HINT}")
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    return features


def _find_weights(name: str, width: float, weights: str) -> Any:  # noqa: ANN401
    """Return torchvision's entry.

    Raises:
        ValueError: if there is none.
    """
    from torchvision import models

    entries = models.get_model_weights(name)
    known = list(entries.__members__)
    if width != 1 or weights not in known:
        raise ValueError(
            f"{name} has weights {', '.join(known)} at width 1, got {weights} at width {width}"
        )
    return entries[weights]
