"""The networks that studies compare, by the names their tables give them.

X            a classifier: trunk X, pooling, one linear layer
X-d, ASPP    the paper's segmenter: X dilated to output stride 8, four dilated classifiers
OURS         what ``configs/seg.yaml`` trains: output stride 16 and the light decoder
"""

from collections.abc import Callable
from functools import partial

from cdinfer.models import (
    ASPP,
    Classifier,
    CResNet,
    LightDecoder,
    PatchCResNet,
    ResNet,
    Segmenter,
    TorchvisionNet,
    Trunk,
)

#: Trunks of the paper.
TRUNKS: dict[str, Callable[..., Trunk]] = {
    **{f"cResNet-{depth}": partial(CResNet, depth=depth) for depth in (39, 51, 72)},
    **{f"ResNet-{depth}": partial(ResNet, depth=depth) for depth in (50, 71)},
}

#: Trunks on pixels that classify only.
BASELINES: dict[str, Callable[..., Trunk]] = {
    "patches, cResNet-39": partial(PatchCResNet, depth=39),
    "MobileNetV3-Large": partial(TorchvisionNet, name="mobilenet_v3_large"),
    "ConvNeXt-Tiny": partial(TorchvisionNet, name="convnext_tiny"),
}

#: Our segmenter.
OURS = "cResNet-39/16, light decoder"

CLASSIFIERS = (*TRUNKS, *BASELINES)
SEGMENTERS = (*(f"{name}-d, ASPP" for name in TRUNKS), OURS)


def reads_latents(name: str) -> bool:
    """Return whether a network reads latents, or else pixels.

    Example:
        >>> reads_latents("cResNet-39-d, ASPP"), reads_latents("ResNet-50")
        (True, False)
    """
    return name.startswith("cResNet")


def build_classifier(
    name: str, latents: tuple[int, int], classes: int, **options: float
) -> Classifier:
    """Return an untrained network of ``CLASSIFIERS``, in eval mode.

    Args:
        name: its name.
        latents: channels and stride of the latents, if it reads them.
        classes: of its answers.
        options: ``width``, of trunks that have one.
    """
    shape = latents if reads_latents(name) else (3, 1)
    trunk = (TRUNKS | BASELINES)[name](*shape, **options)
    return Classifier(trunk, classes).eval()


def build_segmenter(
    name: str, latents: tuple[int, int], classes: int, width: float = 1.0
) -> Segmenter:
    """Return an untrained network of ``SEGMENTERS``, likewise."""
    shape = latents if reads_latents(name) else (3, 1)
    if name == OURS:
        ours = CResNet(*shape, depth=39, width=width, output_stride=16)
        return Segmenter(ours, partial(LightDecoder, width=width), *shape, classes).eval()
    trunk = TRUNKS[name.removesuffix("-d, ASPP")](*shape, width=width, output_stride=8)
    return Segmenter(trunk, ASPP, *shape, classes).eval()
