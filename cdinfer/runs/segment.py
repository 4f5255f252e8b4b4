"""A trained segmenter at work: inputs -> the class of every pixel.

    x (1, C, h, w) --network--> mask of what it saw --nearest pixel--> (H, W) of the input itself

Pictures are resized as in training, but never cropped.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cdinfer.data.masks import Mask, resize_mask
from cdinfer.models import Segmenter
from cdinfer.runs.engines import Engine, Precision, prepare
from cdinfer.runs.inputs import Inputs, OnError, Sample, Source


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


class SegmenterRun:
    """A trained segmenter, ready to predict; see :func:`load_run`.

    Args:
        classes: class names in the order of the network's outputs.
        palette: colour (red, green, blue) of each.
        inputs: reads what the network was trained to read.
        net: pixels or latents -> logits.
        engine, precision: what computes it, see :mod:`cdinfer.runs.engines`.

    Attributes:
        codec: the codec whose latents the network reads; ``None`` for originals.
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
        self.classes, self.palette = list(classes), [list(colour) for colour in palette]
        self.inputs, self.codec = inputs, inputs.codec
        self.net = net.to(inputs.device).eval().requires_grad_(False)
        self.net.to(memory_format=torch.channels_last)
        self._logits = prepare(self.net, inputs.channels, engine, precision)

    def predict(
        self, inputs: Iterable[str | Path | Source], on_error: OnError | None = None
    ) -> Iterator[Segmentation]:
        """Segment files, folders and sets of shards, in order.

        Args:
            inputs: ``.cdi`` files, pictures, folders of either, sets of shards.
            on_error: called with the file and the error for inputs that cannot be read, which
                are then left out; without it the error is raised.

        Raises:
            ValueError: if an input is missing, damaged, too large, or another codec's.
        """
        return self.inputs.answer(inputs, self._segment, on_error)

    @torch.inference_mode()
    def _segment(self, batch: list[Sample]) -> Iterator[Segmentation]:
        x = torch.cat([sample.x for sample in batch])
        masks = self.net.choose(self._logits(x), batch[0].seen).cpu().numpy()
        for sample, seen in zip(batch, masks, strict=True):
            mask = resize_mask(seen, sample.size)
            yield Segmentation(sample.file, mask, self._shares(mask), sample.picture)

    def _shares(self, mask: Mask) -> dict[str, float]:
        counts = np.bincount(mask.reshape(-1), minlength=len(self.classes))
        present = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
        return {self.classes[k]: float(counts[k]) / mask.size for k in present}
