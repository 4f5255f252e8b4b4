"""A `Loader` of streams: training and resuming see what they see of map-style shards.

Lightning --set_epoch--> sampler --epoch, batches to leave out--> stream --> batches
"""

from collections.abc import Iterator

from cdinfer.data.draws import Draw, EpochSampler
from cdinfer.data.loader import Loader
from cdinfer.data.stream import StreamDataset


class StreamSampler(EpochSampler):
    """How far an epoch of training has come; the stream draws for itself, from there on.

    Args:
        dataset: of training.
    """

    def __init__(self, dataset: StreamDataset) -> None:
        super().__init__(
            dataset.samples, dataset.seed, dataset.batch_size, dataset.rank, dataset.world
        )
        self.dataset = dataset

    def __iter__(self) -> Iterator[Draw]:
        draws = super().__iter__()
        self.dataset.set_epoch(self.epoch, self.seen // (self.batch_size * self.world))
        return draws


class StreamLoader(Loader):
    """Batches of a stream.

    Args:
        dataset: the stream.
        workers: loading processes.
        prefetch: batches that a thread reads ahead where there are none.
    """

    def __init__(self, dataset: StreamDataset, workers: int = 0, prefetch: int = 0) -> None:
        super().__init__(dataset, batch_size=None, num_workers=workers, prefetch=prefetch)
        if dataset.train:  # DataLoader lets streams have none, and asks it before it reads
            object.__setattr__(self, "sampler", StreamSampler(dataset))

    def state_dict(self) -> dict[str, int]:
        """Return how far training has come, the same on every process; plain numbers."""
        return {**super().state_dict(), "workers": self.num_workers}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from ``state``: the next iteration of its epoch gives the rest of it.

        Raises:
            ValueError: if in the middle of an epoch the rest cannot be known, because the set,
                the seed, the batches, processes or workers are others.
        """
        if 0 < state["seen"] < state["length"]:
            mine = self.state_dict()
            for name, flag in (("world", "--trainer.devices"), ("workers", "--data.workers")):
                if max(state.get(name, 0), 1) != max(mine[name], 1):
                    raise ValueError(
                        f"this checkpoint was written in the middle of an epoch of a stream, with "
                        f"{flag} {state.get(name, 0)}, and now it is {mine[name]}: resume with "
                        "that, or from the end of an epoch"
                    )
        super().load_state_dict(state)
