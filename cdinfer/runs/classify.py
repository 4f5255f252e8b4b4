"""A trained classifier at work: inputs -> the most likely class of each."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cdinfer.models import Classifier
from cdinfer.runs.engines import Engine, Precision, prepare
from cdinfer.runs.inputs import Inputs, OnError, Sample, Source


class Prediction(NamedTuple):
    """The most likely class of one input, and its probability."""

    file: str
    name: str
    probability: float


class ClassifierRun:
    """A trained classifier, ready to predict; see :func:`load_run`.

    Args:
        classes: class names in the order of the network's outputs.
        inputs: reads what the network was trained to read.
        net: pixels or latents -> logits.
        engine, precision: what computes it, see :mod:`cdinfer.runs.engines`.

    Attributes:
        codec: the codec whose latents the network reads; ``None`` for originals.
    """

    def __init__(
        self,
        classes: Sequence[str],
        inputs: Inputs,
        net: Classifier,
        engine: Engine = "torch",
        precision: Precision = "fp32",
    ) -> None:
        self.classes, self.inputs, self.codec = list(classes), inputs, inputs.codec
        self.net = net.to(inputs.device).eval().requires_grad_(False)
        self._logits = prepare(self.net, inputs.channels, engine, precision)

    def predict(
        self, inputs: Iterable[str | Path | Source], on_error: OnError | None = None
    ) -> Iterator[Prediction]:
        """Classify files, folders and sets of shards, in order.

        Args:
            inputs: ``.cdi`` files, pictures, folders of either, sets of shards.
            on_error: called with the file and the error for inputs that cannot be read, which
                are then left out; without it the error is raised.

        Raises:
            ValueError: if an input is missing, damaged, or another codec's.
        """
        return self.inputs.answer(inputs, self._classify, on_error)

    @torch.inference_mode()
    def probabilities(self, x: Tensor) -> Tensor:
        """Map what the network reads, ``(B, C, h, w)``, to probabilities ``(B, K)``."""
        return self._logits(x.to(self.inputs.device)).softmax(-1).cpu()

    def _classify(self, batch: list[Sample]) -> Iterator[Prediction]:
        best = self.probabilities(torch.cat([sample.x for sample in batch])).max(-1)
        for sample, p, label in zip(batch, best.values, best.indices, strict=True):
            yield Prediction(sample.file, self.classes[int(label)], float(p))
