"""What trained networks at work have in common, whatever they answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from cdinfer.runs.engines import Engine, Precision, prepare
from cdinfer.runs.inputs import Inputs, OnError, Sample, Source

Net = TypeVar("Net", bound=nn.Module)
Answer = TypeVar("Answer")


class TrainedRun(ABC, Generic[Net, Answer]):
    """A trained network, ready to predict; see :func:`load_run`. Subclasses are final.

    Args:
        classes: class names in the order of the network's outputs.
        inputs: reads what the network was trained to read.
        net: pixels or latents -> logits.
        engine, precision: what computes it, see :mod:`cdinfer.runs.engines`.

    Attributes:
        codec: the codec whose latents the network reads; ``None`` for originals.
        logits: what computes the network's, on the device of the inputs.
    """

    def __init__(
        self,
        classes: Sequence[str],
        inputs: Inputs,
        net: Net,
        engine: Engine = "torch",
        precision: Precision = "fp32",
    ) -> None:
        self.classes, self.inputs, self.codec = list(classes), inputs, inputs.codec
        self.net = net.to(inputs.device).eval().requires_grad_(False)
        self.logits = prepare(self.net, inputs.channels, engine, precision)

    @abstractmethod
    def answer(self, batch: list[Sample]) -> Iterator[Answer]:
        """Yield the answer to each sample of a batch of one size."""

    def predict(
        self, inputs: Iterable[str | Path | Source], on_error: OnError | None = None
    ) -> Iterator[Answer]:
        """Answer files, folders and sets of shards, in order.

        Args:
            inputs: ``.cdi`` files, pictures, folders of either, sets of shards.
            on_error: called with the file and the error for inputs that cannot be read, which
                are then left out; without it the error is raised.

        Raises:
            ValueError: if an input is missing, damaged, too large, or another codec's.
        """
        return self.inputs.answer(inputs, self.answer, on_error)
