import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdinfer.bitstream.tables import Tables, build_tables, ideal_bits

COUNTS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 3), st.integers(2, 12)),
    elements=st.one_of(st.integers(0, 20), st.integers(0, 10**9)),
)


def cost(counts: list[int], frequencies: list[int]) -> float:
    """Bits that counted symbols cost, by the definition of information."""
    return -sum(n * math.log2(f / 4096) for n, f in zip(counts, frequencies, strict=True))


@settings(deadline=None, max_examples=150)
@given(COUNTS)
def test_every_row_sums_to_4096_and_keeps_every_symbol(counts) -> None:
    frequencies = build_tables(counts).frequencies
    assert frequencies.dtype == np.uint16
    assert frequencies.shape == counts.shape
    assert (frequencies.sum(axis=1) == 4096).all()
    assert frequencies.min() >= 1


@settings(deadline=None, max_examples=60)
@given(COUNTS)
def test_no_move_of_a_single_unit_makes_the_tables_noticeably_cheaper(counts) -> None:
    tables = build_tables(counts)
    for row, rounded in zip(counts.tolist(), tables.frequencies.tolist(), strict=True):
        ours = cost(row, rounded)
        for giver in range(len(row)):
            for taker in range(len(row)):
                moved = rounded.copy()
                moved[giver] -= 1
                moved[taker] += 1
                if giver != taker and moved[giver] > 0:
                    assert cost(row, moved) >= ours - 2e-5 * sum(row)


def test_tables_of_one_histogram_never_change() -> None:
    counts = np.array([[1, 0, 5, 900, 37, 2, 0], [0, 0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3, 3]])
    flat = [586, 585, 585, 585, 585, 585, 585]
    assert build_tables(counts).frequencies.tolist() == [[4, 1, 22, 3899, 160, 9, 1], flat, flat]


def test_counts_that_already_sum_to_4096_are_kept() -> None:
    row = [1, 4000, 90, 5]
    assert build_tables(np.array([row])).frequencies.tolist() == [row]


def test_a_channel_with_one_symbol_of_256_still_codes_all() -> None:
    counts = np.zeros((1, 256), dtype=np.int64)
    counts[0, 77] = 10**12
    frequencies = build_tables(counts).frequencies[0]
    assert frequencies[77] == 4096 - 255
    assert np.delete(frequencies, 77).tolist() == [1] * 255


def test_ideal_bits_agree_with_the_definition_symbol_by_symbol() -> None:
    rng = np.random.default_rng(0)
    tables = build_tables(rng.integers(0, 50, (3, 5)))
    symbols = rng.integers(0, 5, (2, 3, 4, 6)).astype(np.uint8)
    expected = [0.0, 0.0]
    for (b, c, _, _), s in np.ndenumerate(symbols):
        expected[b] -= math.log2(tables.frequencies[c, s] / 4096)
    assert ideal_bits(symbols, tables) == pytest.approx(expected)


def test_min_bits_is_the_price_of_the_cheapest_possible_stream() -> None:
    tables = build_tables(np.array([[9, 1, 1], [1, 1, 1], [0, 0, 500]]))
    cheapest = tables.frequencies.argmax(axis=1).astype(np.uint8)
    symbols = np.broadcast_to(cheapest[None, :, None, None], (1, 3, 5, 7))
    assert tables.min_bits * symbols.size == pytest.approx(ideal_bits(symbols, tables)[0])


@pytest.mark.parametrize(
    "foreign",
    [
        np.array([[4095, 2]]),  # sums to 4097
        np.array([[4096, 0]]),
        np.array([[4097, -1]]),
        np.array([[2048 + 65536, 2048]]),  # right only after wrapping to 16 bits
        np.array([[2048.0, 2048.0]]),
        np.array([4000, 96]),
        np.array([[4096]]),
        np.ones((1, 257), dtype=int),
        np.empty((0, 7), dtype=int),
    ],
)
def test_foreign_tables_are_refused(foreign) -> None:
    with pytest.raises(ValueError, match="damaged; copy it again"):
        Tables(foreign)


def test_tables_keep_their_own_copy() -> None:
    given = np.array([[2048, 2048]], dtype=np.uint16)
    tables = Tables(given)
    given[0] = [1, 4095]
    assert tables.frequencies.tolist() == [[2048, 2048]]
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0, 0] = 1
