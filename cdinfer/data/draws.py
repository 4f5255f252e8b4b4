"""Which samples an epoch sees, in which order, and the randomness each one gets.

A training epoch is a list of *draws* (epoch, sample). Everything random about a sample (crop,
flip) is a function of (seed, epoch, sample) alone: it does not depend on the number of workers,
on what came before, or on where a run was interrupted.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


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
    """

    def __init__(
        self, length: int, seed: int, batch_size: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.seed, self.batch_size, self.epoch = length, seed, batch_size, 0
        self.rank, self.world = rank, world

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // (self.batch_size * self.world)) * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        share = np.resize(order, len(self) * self.world)[self.rank :: self.world]
        return (Draw(self.epoch, int(sample)) for sample in share)


def split_draw(draw: Draw | int, seed: int) -> tuple[int, np.random.Generator | None]:
    """Return a sample's number and its generator; ``None`` for validation's plain numbers."""
    if isinstance(draw, Draw):
        return draw.sample, np.random.default_rng((seed, draw.epoch, draw.sample))
    return draw, None


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
