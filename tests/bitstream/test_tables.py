import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdinfer.bitstream.tables import build_tables, check_frequencies

COUNTS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 3), st.integers(2, 12)),
    elements=st.one_of(st.integers(0, 20), st.integers(0, 10**9)),
)


def cost(counts: list[int], frequencies: list[int]) -> float:
    """Bits that counted symbols cost, by the definition of information."""
    return -sum(n * math.log2(f / 4096) for n, f in zip(counts, frequencies, strict=True))


@settings(deadline=None, max_examples=80)
@given(COUNTS)
def test_every_row_sums_to_4096_and_keeps_every_symbol(counts) -> None:
    frequencies = build_tables(counts)
    assert frequencies.dtype == np.uint16
    assert frequencies.shape == counts.shape
    assert (frequencies.sum(axis=1) == 4096).all()
    assert frequencies.min() >= 1


@settings(deadline=None, max_examples=60)
@given(COUNTS)
def test_no_move_of_a_single_unit_makes_the_tables_noticeably_cheaper(counts) -> None:
    tables = build_tables(counts)
    for row, rounded in zip(counts.tolist(), tables.tolist(), strict=True):
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
    assert build_tables(counts).tolist() == [[4, 1, 22, 3899, 160, 9, 1], flat, flat]


def test_counts_that_already_sum_to_4096_are_kept() -> None:
    row = [1, 4000, 90, 5]
    assert build_tables(np.array([row])).tolist() == [row]


def test_a_channel_with_one_symbol_of_256_still_codes_all() -> None:
    counts = np.zeros((1, 256), dtype=np.int64)
    counts[0, 77] = 10**12
    frequencies = build_tables(counts)[0]
    assert frequencies[77] == 4096 - 255
    assert np.delete(frequencies, 77).tolist() == [1] * 255


@pytest.mark.parametrize(
    "foreign",
    [
        [[4095, 2, 0], [1, 4000, 95]],  # sums to 4097
        [[4096, 0, 0], [1, 4000, 95]],  # a symbol that cannot be coded
        [[4000, 95, 1], [1, 4000, 95]],  # more symbols than the row has
        [[4000, 96, 0], [4001, 95, 0]],  # fewer
    ],
)
def test_foreign_tables_are_refused(foreign) -> None:
    sizes = np.array([2, 3])
    check_frequencies(np.array([[4000, 96, 0], [1, 4000, 95]], np.uint16), sizes)
    with pytest.raises(ValueError, match=r"sum to 4096.*damaged; copy it again"):
        check_frequencies(np.array(foreign, np.uint16), sizes)
