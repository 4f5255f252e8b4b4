"""Which samples an epoch sees, in which order, and the randomness each one gets.

    epoch --order--> samples of all processes --batches of batch_size * world--> [rank::world]

A training epoch is a list of *draws* (epoch, sample). Everything random about a sample (crop,
flip) is a function of (seed, epoch, sample) alone: it does not depend on the number of workers,
on what came before, or on where a run was interrupted. The order is a function of (seed, epoch),
and how far an epoch has come is one number, its samples seen by all processes together: training
goes on anywhere, on any number of processes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

#: Blocks whose samples are mixed with each other; 4096 samples of a set as it is exported.
WINDOW = 8


class Draw(NamedTuple):
    """Sample number ``sample`` as epoch ``epoch`` sees it."""

    epoch: int
    sample: int


class EpochSampler(Sampler[Draw]):
    """Every sample once an epoch, in an order that ``(seed, epoch)`` fixes.

    Lightning calls :meth:`set_epoch` before each epoch.

    Args:
        length: number of samples.
        seed: of the order.
        batch_size: the first samples of the order come again at its end until this divides
            their number, so that every batch is whole and no sample is left out.
        rank, world: number of this process and of all: each draws its share of the same order,
            as many batches as any other.
        blocks: numbers of samples that lie together on disk, if reads are to stay local: only
            samples of `WINDOW` blocks, chosen anew each epoch, are then mixed.

    Attributes:
        seen: samples of this epoch that all processes together are done with.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int = 1,
        rank: int = 0,
        world: int = 1,
        blocks: Sequence[int] | None = None,
    ) -> None:
        assert blocks is None or sum(blocks) == length
        self.length, self.seed, self.batch_size = length, seed, batch_size
        self.rank, self.world, self.blocks = rank, world, blocks
        self.epoch, self.seen, self._goes_on = 0, 0, False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; a new one starts at its beginning."""
        if epoch != self.epoch:
            self.epoch, self.seen, self._goes_on = epoch, 0, False

    def go_on(self, epoch: int, seen: int) -> None:
        """Let the next iteration of epoch ``epoch`` leave out the ``seen`` first samples."""
        self.epoch, self.seen, self._goes_on = epoch, seen, True

    def __len__(self) -> int:
        """Return the draws of this process in a whole epoch."""
        return -(-self.length // (self.batch_size * self.world)) * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        epoch, start = self.epoch, self.seen if self._goes_on else 0
        self.seen, self._goes_on = start, False
        order = np.resize(self._order(epoch), len(self) * self.world)
        return (Draw(epoch, int(sample)) for sample in order[start + self.rank :: self.world])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, epoch))
        if self.blocks is None:
            return rng.permutation(self.length)
        ends = np.cumsum(self.blocks)
        numbers = rng.permutation(len(ends))
        windows = np.split(numbers, range(WINDOW, len(numbers), WINDOW))
        runs = [[np.arange(ends[i] - self.blocks[i], ends[i]) for i in few] for few in windows]
        return np.concatenate([rng.permutation(np.concatenate(run)) for run in runs])


def split_draw(draw: Draw | int, seed: int) -> tuple[int, np.random.Generator | None]:
    """Return a sample's number and its generator; ``None`` for validation's plain numbers."""
    if isinstance(draw, Draw):
        return draw.sample, np.random.default_rng((seed, draw.epoch, draw.sample))
    return draw, None


def random_offsets(
    seed: int, epochs: NDArray[np.int64], samples: NDArray[np.int64], rooms: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return offsets ``(B, N)`` in ``0..rooms``, each a function of (seed, epoch, sample) alone.

    Args:
        seed: any number.
        epochs: ``(B,)``.
        samples: ``(B,)``, their numbers.
        rooms: ``(B, N)``, the largest offsets; below 2**31.

    Example:
        >>> random_offsets(0, np.array([3, 3]), np.array([7, 8]), np.array([[4, 4]])).tolist()
        [[1, 2], [1, 0]]
    """
    state = np.full((len(samples), 1), seed & 2**64 - 1, np.uint64)
    columns = np.arange(rooms.shape[1], dtype=np.uint64)
    for part in (epochs[:, None], samples[:, None], columns[None]):
        state = _mix(state + part.astype(np.uint64))
    return ((state >> 32) * (rooms.astype(np.uint64) + 1) >> 32).astype(np.int64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the numbers that splitmix64 makes of its states (Steele, Lea, Flood 2014)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def crop_offset(
    size: tuple[int, int], crop: tuple[int, int], rng: np.random.Generator | None
) -> tuple[int, int]:
    """Return ``(top, left)`` of a crop: random with ``rng``, else centred.

    Example:
        >>> crop_offset((32, 32), (28, 28), None)
        (2, 2)
    """
    rooms = [max(have - want, 0) for have, want in zip(size, crop, strict=True)]
    if rng is None:
        return rooms[0] // 2, rooms[1] // 2
    return int(rng.integers(rooms[0] + 1)), int(rng.integers(rooms[1] + 1))
