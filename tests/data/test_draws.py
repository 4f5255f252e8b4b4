import numpy as np
import pytest

from cdinfer.data.draws import Draw, EpochSampler, crop_offset, split_draw


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
