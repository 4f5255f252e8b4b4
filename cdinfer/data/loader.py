"""A DataLoader that reads ahead in a thread and knows how far it has come.

    draws --dataset--> batches --thread, a few ahead--> training
                                                           |
                                            state: epoch, samples *used*

What counts is what training was given, not what threads or processes have read ahead of it: a
checkpoint written after a step holds exactly that step's position.
"""

import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from cdinfer.data.ahead import read_ahead
from cdinfer.data.draws import EpochSampler
from cdinfer.data.shards import ShardDataset

#: What the order of an epoch depends on, as errors name it.
MEANINGS = {
    "length": "a number of training samples of",
    "seed": "a --data.seed of",
    "blocks": "a number of blocks to shuffle (--data.shuffle) of",
}


class Loader(DataLoader[Any]):
    """Batches of training, which can be resumed, or of validation and test.

    Nothing is read before the first batch is asked for, since Lightning asks for an iterator
    before it calls ``sampler.set_epoch``.

    Args:
        args, options: those of ``DataLoader``; with an `EpochSampler` it can be resumed.
        prefetch: batches that a thread reads ahead. Worker processes read ahead by themselves.
    """

    def __init__(self, *args: Any, prefetch: int = 0, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self.prefetch = 0 if self.num_workers else prefetch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Iterator[Any] = _in_one_line(super().__iter__())
        if self.prefetch:
            batches = read_ahead(batches, self.prefetch)
        order = self.sampler
        for batch in batches:
            if isinstance(order, EpochSampler):
                order.seen += order.batch_size * order.world
            if batch:  # all of its samples may be damaged (``on_error`` skip)
                yield batch
        if isinstance(self.dataset, ShardDataset) and (skipped := self.dataset.summary()):
            warnings.warn(skipped, stacklevel=2)

    def state_dict(self) -> dict[str, int]:
        """Return how far training has come, the same on every process; plain numbers."""
        order = self.sampler
        assert isinstance(order, EpochSampler)
        return {
            "epoch": order.epoch,
            "seen": order.seen,
            "batch_size": order.batch_size,
            "world": order.world,
            "length": order.length,
            "seed": order.seed,
            "blocks": 0 if order.blocks is None else len(order.blocks),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from ``state``: the next iteration of its epoch gives the rest of it.

        Raises:
            ValueError: if in the middle of an epoch the rest cannot be known, because the set,
                the seed, the order or the number of samples a step are others.
        """
        order, mine = self.sampler, self.state_dict()
        assert isinstance(order, EpochSampler)
        if 0 < state["seen"] < state["length"]:
            for name, meaning in MEANINGS.items():
                if state[name] != mine[name]:
                    raise ValueError(
                        f"this checkpoint was written in the middle of an epoch with "
                        f"{meaning} {state[name]}, and now it is {mine[name]}: resume with what "
                        "it was trained on"
                    )
            step = state["batch_size"] * state["world"]
            if step != order.batch_size * order.world:
                raise ValueError(
                    f"this checkpoint was written in the middle of an epoch of {step} samples a "
                    f"step, and now there are {order.batch_size * order.world}: resume with "
                    f"{_ways(step, order.world)}"
                )
        order.go_on(state["epoch"], state["seen"])


def share_step(state: dict[str, int], world: int) -> int:
    """Return the batch size with which ``world`` processes take the steps of ``state``.

    Steps, and with them the learning rates and the order of an epoch, stay what they were.

    Raises:
        ValueError: if the samples of a step cannot be shared evenly.
    """
    step = state["batch_size"] * state["world"]
    if step % world:
        raise ValueError(
            f"this checkpoint was trained with {step} samples a step ({state['world']} processes "
            f"of {state['batch_size']}), which {world} cannot share evenly: resume with "
            f"{_ways(step, world)}"
        )
    return step // world


def _ways(step: int, world: int) -> str:
    """Return the flags that make ``step`` samples a step."""
    if step % world == 0:
        return f"--data.batch_size {step // world}"
    counts = [str(count) for count in range(1, step + 1) if step % count == 0][:6]
    return f"--trainer.devices {' or '.join(counts)}"


def _in_one_line(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches; what a worker process found wrong comes without its traceback."""
    try:
        yield from batches
    except ValueError as error:
        message = str(error)
        if not message.startswith("Caught "):
            raise
        raise ValueError(message.strip().rpartition("\n")[2].partition(": ")[2]) from error
