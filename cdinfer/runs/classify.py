"""A trained classifier at work: inputs -> the most likely class of each."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cdinfer.models import Classifier
from cdinfer.runs.inputs import Sample
from cdinfer.runs.trained import TrainedRun


class Prediction(NamedTuple):
    """The most likely class of one input, and its probability."""

    file: str
    name: str
    probability: float


class ClassifierRun(TrainedRun[Classifier, Prediction]):
    """A trained classifier."""

    @torch.inference_mode()
    def probabilities(self, x: Tensor) -> Tensor:
        """Map what the network reads, ``(B, C, h, w)``, to probabilities ``(B, K)``."""
        return self.logits(x.to(self.inputs.device)).softmax(-1).cpu()

    def answer(self, batch: list[Sample]) -> Iterator[Prediction]:
        best = self.probabilities(torch.cat([sample.x for sample in batch])).max(-1)
        for sample, p, label in zip(batch, best.values, best.indices, strict=True):
            yield Prediction(sample.file, self.classes[int(label)], float(p))
