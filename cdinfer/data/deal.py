"""Which part of a split each reader of a stream takes.

    shards --order of (seed, epoch)--> all samples --cut--> processes --cut--> workers

A cut may fall inside a shard: both neighbours then read that shard, each its own blocks of it.
So shares are exact however few shards there are, and however many processes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """Samples ``start`` to ``stop`` of a shard."""

    shard: int
    start: int
    stop: int


class Share(NamedTuple):
    """One of the ``world`` processes, and in it one of the ``workers``."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1


def shuffled(shards: int, seed: int, epoch: int) -> list[int]:
    """Return the order of the shards in an epoch of training."""
    order: list[int] = np.random.default_rng((seed, epoch)).permutation(shards).tolist()
    return order


def train_span(samples: int, batch_size: int, share: Share) -> tuple[int, int]:
    """Return the first sample of a share in the epoch's order and the first that is not its.

    Every process gets ``ceil(samples / (batch_size * world))`` whole batches. The order is
    continued with its own beginning: each sample comes once, and fewer than one batch of every
    process comes twice.

    Example:
        >>> [train_span(10, 4, Share(rank, 2)) for rank in range(2)]
        [(0, 8), (8, 16)]
    """
    own = -(-samples // (batch_size * share.world)) * batch_size
    return _of_worker(share.rank * own, (share.rank + 1) * own, batch_size, share)


def whole_span(samples: int, batch_size: int, share: Share) -> tuple[int, int]:
    """Return the span of a share when each sample comes exactly once; it may be empty.

    Example:
        >>> [whole_span(10, 4, Share(rank, 4)) for rank in range(4)]
        [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    first, last = (samples * rank // share.world for rank in (share.rank, share.rank + 1))
    return _of_worker(first, last, batch_size, share)


def pieces(counts: Sequence[int], order: Sequence[int], first: int, last: int) -> Iterator[Piece]:
    """Yield the samples ``first`` to ``last`` of the shards in ``order``, round and round.

    Args:
        counts: samples of each shard.
        order: numbers of the shards.
        first: place in the order.
        last: the place after the last.

    Example:
        >>> [tuple(piece) for piece in pieces([3, 4], [1, 0], 2, 9)]
        [(1, 2, 4), (0, 0, 3), (1, 0, 2)]
    """
    ends = np.cumsum([counts[shard] for shard in order])
    while first < last:
        place = first % int(ends[-1])
        turn = int(np.searchsorted(ends, place, side="right"))
        shard = order[turn]
        start = place - int(ends[turn]) + counts[shard]
        stop = min(counts[shard], start + last - first)
        yield Piece(shard, start, stop)
        first += stop - start


def _of_worker(first: int, last: int, batch_size: int, share: Share) -> tuple[int, int]:
    """Cut a process's span at batches, so that asking one worker after the other gets all."""
    batches, more = divmod(-(-(last - first) // batch_size), share.workers)
    before = batches * share.worker + min(share.worker, more)
    own = batches + (share.worker < more)
    start = min(first + before * batch_size, last)
    return start, min(start + own * batch_size, last)
