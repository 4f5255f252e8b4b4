import itertools
from collections import Counter

import pytest

from cdinfer.data.deal import Share, pieces, shuffled, train_span, whole_span

COUNTS = [7, 1, 12, 3]
CASES = list(itertools.product([1, 2, 3, 5, 30], [1, 2, 3], [1, 4, 7, 50]))


def shares(world: int, workers: int) -> list[Share]:
    return [Share(r, world, w, workers) for r in range(world) for w in range(workers)]


def samples(order: list[int], first: int, last: int) -> list[tuple[int, int]]:
    """Return shard and place of every sample of a span."""
    found = pieces(COUNTS, order, first, last)
    return [(piece.shard, place) for piece in found for place in range(*piece[1:])]


@pytest.mark.parametrize(("world", "workers", "batch_size"), CASES)
def test_training_gives_equal_whole_batches_and_every_sample(
    world: int, workers: int, batch_size: int
) -> None:
    order = shuffled(len(COUNTS), 0, 5)
    spans = [train_span(23, batch_size, share) for share in shares(world, workers)]
    seen = Counter(s for span in spans for s in samples(order, *span))
    assert len(seen) == 23
    assert set(seen.values()) <= {1, 2} or batch_size * world > 23
    assert sum(seen.values()) - 23 < batch_size * world
    steps = -(-23 // (batch_size * world))
    for rank in range(world):
        own = spans[rank * workers : (rank + 1) * workers]
        assert all((last - first) % batch_size == 0 for first, last in own)
        assert sum(last - first for first, last in own) == steps * batch_size


@pytest.mark.parametrize(("world", "workers", "batch_size"), CASES)
def test_validation_gives_every_sample_exactly_once(
    world: int, workers: int, batch_size: int
) -> None:
    spans = [whole_span(23, batch_size, share) for share in shares(world, workers)]
    seen = [s for span in spans for s in samples([0, 1, 2, 3], *span)]
    assert seen == [(shard, place) for shard, n in enumerate(COUNTS) for place in range(n)]
    for rank in range(world):
        own = sum(last - first for first, last in spans[rank * workers : (rank + 1) * workers])
        assert own in (23 // world, -(-23 // world))


@pytest.mark.parametrize(("world", "workers", "batch_size"), CASES)
def test_asking_workers_in_turn_gives_all_batches(
    world: int, workers: int, batch_size: int
) -> None:
    for span in (train_span, whole_span):
        for rank in range(world):
            own = [span(23, batch_size, Share(rank, world, w, workers)) for w in range(workers)]
            counts = [-(-(last - first) // batch_size) for first, last in own]
            total = sum(counts)
            assert counts == [len(range(w, total, workers)) for w in range(workers)]


def test_shards_come_in_another_order_each_epoch() -> None:
    orders = [shuffled(50, 3, epoch) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(50))
    assert shuffled(50, 4, 0) != orders[0]


def test_empty_shards_give_no_pieces() -> None:
    assert [tuple(p) for p in pieces([0, 2, 0, 3, 0], range(5), 1, 7)] == [
        (1, 1, 2),
        (3, 0, 3),
        (1, 0, 2),
    ]
