import numpy as np
import pytest

from cdinfer.bitstream import build_tables, rans, static_model
from cdinfer.bitstream.fit import MARGIN, fit_model


def pictures(seed, dependent, count=6, channels=3):
    """Numbers k of ``count`` pictures ``(channels, 24, 30)``: of one spread, or of a field of it.

    A coarse field says how busy each place is, the same in all channels; channel 1 holds
    channel 0 too. Not ``dependent``: the same numbers, shuffled.
    """
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(count, 1, 4, 5)).repeat(6, 2).repeat(6, 3)
    k = rng.laplace(size=(count, channels, 24, 30)) * 0.8 * np.exp(field)
    k[:, 1] += k[:, 0]
    k = np.clip(np.rint(k), -20, 20).astype(np.int16)
    if not dependent:
        for c in range(channels):
            flat = k[:, c].reshape(-1)
            k[:, c] = rng.permutation(flat).reshape(k[:, c].shape)
    return k


def bits(k, model) -> float:
    return rans.ideal_bits((k + model.zeros[:, None, None]).astype(np.uint8), model).sum()


def static_bits(seen, k) -> float:
    """Bits of ``k`` under one table a channel, counted on ``seen``, two symbols wider."""
    total = 0.0
    for c in range(k.shape[1]):
        low, high = seen[:, c].min() - 2, seen[:, c].max() + 2
        counts = np.bincount(seen[:, c].ravel() - low, minlength=high - low + 1)
        symbols = (k[:, c : c + 1] - low).astype(np.uint8)
        total += rans.ideal_bits(symbols, static_model(build_tables(counts[None]))).sum()
    return total


def test_dependencies_pay_on_pictures_that_were_not_seen() -> None:
    seen, k = pictures(0, True, count=20), pictures(1, True)
    k = np.clip(k, seen.min((0, 2, 3))[:, None, None], seen.max((0, 2, 3))[:, None, None])
    assert bits(k, fit_model(seen)) < 0.93 * static_bits(seen, k)


def test_numbers_without_dependencies_cost_what_static_tables_cost() -> None:
    seen = pictures(2, False, count=12)
    assert bits(seen, fit_model(seen)) == pytest.approx(static_bits(seen, seen), rel=0.01)


def test_real_payloads_have_the_ideal_size_and_decode_exactly() -> None:
    k = pictures(3, True)
    model = fit_model(k)
    symbols = (k + model.zeros[:, None, None]).astype(np.uint8)
    payloads = rans.encode(symbols, model)
    np.testing.assert_array_equal(rans.decode(payloads, model, symbols.shape[1:]), symbols)
    assert sum(map(len, payloads)) <= 1.005 * bits(k, model) / 8 + 4 * len(k)


def test_the_same_numbers_give_the_same_model() -> None:
    k = pictures(4, True)
    assert fit_model(k).pack() == fit_model([*k.copy()]).pack()


def test_pictures_may_have_any_sizes() -> None:
    k = pictures(5, True)
    model = fit_model([k[0], k[1][:, :1, :1], k[2][:, :7]])
    assert len(model.sizes) == 3


@pytest.mark.parametrize(
    ("numbers", "size", "zero"),
    [
        (np.zeros((1, 1, 1)), 5, 2),  # a pixel
        (np.full((1, 4, 5), 7), 12, 2),  # 0 stays codable
        (np.full((1, 4, 5), -7), 12, 9),
        (np.tile([-126, 126], (1, 3, 3)), 256, 127),  # no margin beyond 256 symbols
    ],
)
def test_symbols_reach_a_margin_beyond_what_was_seen(numbers, size, zero) -> None:
    model = fit_model([numbers.astype(np.int16)] * 2)
    assert (model.sizes.tolist(), model.zeros.tolist()) == ([size], [zero])
    assert MARGIN == 2


def test_many_channels_of_many_symbols_still_fit_the_coder() -> None:
    k = np.random.default_rng(0).integers(-120, 121, (2, 40, 4, 5)).astype(np.int16)
    assert fit_model(k).frequencies.size <= 2**16
