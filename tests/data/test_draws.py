from itertools import combinations, pairwise

import numpy as np
import pytest

from cdinfer.data.draws import WINDOW, Draw, EpochSampler, crop_offset, random_offsets, split_draw


def test_an_epoch_is_every_sample_once() -> None:
    sampler = EpochSampler(100, seed=3)
    sampler.set_epoch(5)
    draws = list(sampler)
    assert sorted(draw.sample for draw in draws) == list(range(100))
    assert {draw.epoch for draw in draws} == {5}
    assert len(sampler) == 100


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (8, 4), (9, 4), (3, 2), (5, 5)])
def test_batches_are_whole_and_repeat_fewer_than_one(length: int, batch_size: int) -> None:
    sampler = EpochSampler(length, 0, batch_size)
    samples = [draw.sample for draw in sampler]
    assert len(samples) == len(sampler)
    assert len(samples) % batch_size == 0
    assert len(samples) - length < batch_size
    assert sorted(samples[:length]) == list(range(length))
    assert samples[length:] == samples[: len(samples) - length]


@pytest.mark.parametrize(("length", "batch_size", "world"), [(10, 2, 3), (12, 2, 3), (5, 1, 2)])
def test_ranks_share_an_epoch_in_steps_of_the_same_number(
    length: int, batch_size: int, world: int
) -> None:
    ranks = [EpochSampler(length, 0, batch_size, rank, world) for rank in range(world)]
    shares = [[draw.sample for draw in sampler] for sampler in ranks]
    assert {len(share) for share in shares} == {len(ranks[0])}
    assert len(ranks[0]) % batch_size == 0
    together = [sample for share in shares for sample in share]
    assert set(together) == set(range(length))
    assert len(together) - length < batch_size * world


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, seed)
        list(sampler)  # what came before does not matter
        sampler.set_epoch(epoch)
        return [draw.sample for draw in sampler]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_an_epoch_goes_on_where_it_stopped() -> None:
    whole = [list(EpochSampler(11, 0, 2, rank, 2)) for rank in range(2)]
    for steps in range(4):
        rest = EpochSampler(11, 0, 2, 1, 2)
        rest.go_on(0, steps * 4)
        rest.set_epoch(0)
        assert list(rest) == whole[1][steps * 2 :]
        assert len(rest) == len(whole[1])  # of the whole epoch: Lightning counts from its start
        assert list(rest) == whole[1]  # once
    rest.go_on(0, 4)
    rest.set_epoch(1)
    assert len(list(rest)) == len(rest)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_an_epoch_goes_on_on_any_number_of_processes(world: int) -> None:
    started = [
        draw.sample for rank in range(2) for draw in list(EpochSampler(50, 3, 6, rank, 2))[:6]
    ]
    ranks = [EpochSampler(50, 3, 12 // world, rank, world) for rank in range(world)]
    for sampler in ranks:
        sampler.go_on(0, 12)
    rest = [draw.sample for sampler in ranks for draw in sampler]
    assert len({len(list(sampler)) for sampler in ranks}) == 1
    assert set(started) | set(rest) == set(range(50))
    assert len(started) + len(rest) - 50 < 12  # repeats: fewer than one step of all


def test_block_wise_order_is_every_sample_once_and_local() -> None:
    blocks = [4] * 30 + [1]
    ends = np.cumsum(blocks)

    def order(epoch: int) -> list[int]:
        sampler = EpochSampler(121, 0, blocks=blocks)
        sampler.set_epoch(epoch)
        return [draw.sample for draw in sampler]

    assert sorted(order(0)) == list(range(121))
    assert order(0) == order(0) != order(1)
    of_block = np.searchsorted(ends, order(0), side="right")
    places = [np.flatnonzero(of_block == block) for block in range(31)]
    assert max(int(place.max() - place.min()) for place in places) < 4 * WINDOW
    neighbours = sum(abs(a - b) == 1 for a, b in pairwise(order(0)))
    assert neighbours < 20  # of 120; 93 would be, were blocks read one by one


def together(order: list[int], batch: int) -> set[tuple[int, int]]:
    """Pairs of samples of one batch."""
    batches = [sorted(order[i : i + batch]) for i in range(0, len(order), batch)]
    return {pair for samples in batches for pair in combinations(samples, 2)}


def test_block_wise_order_meets_the_same_samples_again_as_rarely_as_chance_nearly() -> None:
    def again(blocks: list[int] | None) -> float:
        orders = []
        for epoch in range(2):
            sampler = EpochSampler(4000, 0, blocks=blocks)
            sampler.set_epoch(epoch)
            orders.append(together([draw.sample for draw in sampler], 20))
        return len(orders[0] & orders[1]) / len(orders[0])

    full, blocks = again(None), again([50] * 80)
    assert full < 0.006  # by chance 19 of 3999
    assert blocks < 0.012  # read one block after the other, it would be 0.4


def test_a_draw_fixes_its_randomness() -> None:
    def numbers(draw: Draw, seed: int = 0) -> list[float]:
        sample, rng = split_draw(draw, seed)
        assert sample == draw.sample
        assert rng is not None
        return rng.random(3).tolist()

    assert numbers(Draw(1, 2)) == numbers(Draw(1, 2))
    others = [numbers(Draw(2, 2)), numbers(Draw(1, 3)), numbers(Draw(1, 2), 1), numbers(Draw(2, 1))]
    assert numbers(Draw(1, 2)) not in others


def test_a_plain_number_has_no_randomness() -> None:
    assert split_draw(7, seed=0) == (7, None)


def test_random_crops_reach_every_place_and_none_outside() -> None:
    rng = np.random.default_rng(0)
    found = {crop_offset((6, 5), (4, 4), rng) for _ in range(300)}
    assert found == {(top, left) for top in range(3) for left in range(2)}


def test_a_picture_smaller_than_the_crop_starts_at_its_corner() -> None:
    assert crop_offset((3, 9), (4, 4), None) == (0, 2)
    assert crop_offset((3, 4), (4, 4), np.random.default_rng(0)) == (0, 0)


def test_offsets_are_even_and_a_function_of_seed_epoch_and_sample() -> None:
    samples = np.arange(40_000)
    epochs, rooms = np.full(40_000, 7), np.full((40_000, 2), 4)
    offsets = random_offsets(3, epochs, samples, rooms)
    for column in offsets.T:
        np.testing.assert_allclose(np.bincount(column, minlength=5), 8000, rtol=0.05)
    pairs = np.bincount(5 * offsets[:, 0] + offsets[:, 1], minlength=25)
    np.testing.assert_allclose(pairs, 1600, rtol=0.12)  # 4.8 standard deviations
    chosen = [123, 9, 4000]
    alone = random_offsets(3, epochs[chosen], samples[chosen], rooms[chosen])
    assert alone.tolist() == offsets[chosen].tolist()
    for seed, epoch in ((4, 7), (3, 8)):
        other = random_offsets(seed, np.full(40_000, epoch), samples, rooms)
        assert 0.15 < (other == offsets).mean() < 0.25
    wide = random_offsets(0, epochs, samples, np.full((40_000, 1), 2**31 - 1))
    assert wide.min() >= 0
    assert wide.max() < 2**31
