"""A trained segmenter at work: inputs -> the class of every pixel.

    x (1, C, h, w) --network--> mask of what it saw --nearest pixel--> (H, W) of the input itself

Pictures are resized as in training, but never cropped.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cdinfer.data.masks import Mask, resize_mask
from cdinfer.models import Segmenter
from cdinfer.runs.engines import Engine, Precision
from cdinfer.runs.inputs import Inputs, Sample
from cdinfer.runs.trained import TrainedRun


class Segmentation(NamedTuple):
    """The class of every pixel of one input.

    Attributes:
        file: the input.
        mask: ``(H, W)`` classes; of a bitstream its header's size, of a picture its own.
        shares: share of the pixels of each class there is, largest first.
        picture: returns what was segmented to look at, ``(H, W, 3)``: the picture itself, or what
            the codec makes of the bits.
    """

    file: str
    mask: Mask
    shares: dict[str, float]
    picture: Callable[[], NDArray[np.uint8]]


class SegmenterRun(TrainedRun[Segmenter, Segmentation]):
    """A trained segmenter; of whole inputs, however large.

    Args:
        classes, inputs, net, engine, precision: as every run's.
        palette: colour (red, green, blue) of each class.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        inputs: Inputs,
        net: Segmenter,
        engine: Engine = "torch",
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(classes, inputs, net, engine, precision)
        self.palette = [list(colour) for colour in palette]

    @torch.inference_mode()
    def answer(self, batch: list[Sample]) -> Iterator[Segmentation]:
        x = torch.cat([sample.x for sample in batch])
        masks = self.net.choose(self.logits(x), batch[0].seen).cpu().numpy()
        for sample, seen in zip(batch, masks, strict=True):
            mask = resize_mask(seen, sample.size)
            yield Segmentation(sample.file, mask, self._shares(mask), sample.picture)

    def _shares(self, mask: Mask) -> dict[str, float]:
        counts = np.bincount(mask.reshape(-1), minlength=len(self.classes))
        present = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
        return {self.classes[k]: float(counts[k]) / mask.size for k in present}
