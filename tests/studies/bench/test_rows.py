import pytest

from cdinfer.studies.bench.rows import FIELDS, against, counted, table, timed


def test_a_time_is_a_median_and_a_ratio_is_taken_within_rounds() -> None:
    row = timed("b", "c", "ms/picture", [1e-3, 4e-3, 2e-3], [2e-3, 8e-3, 9e-3], [1e-3] * 3)
    assert tuple(row) == FIELDS
    assert row == {
        "bench": "b", "case": "c", "ours": 2.0, "peer": 8.0, "unit": "ms/picture",
        "ratio": 2.0, "ideal": 1.0,
    }  # fmt: skip


def test_a_rate_is_better_when_it_is_higher() -> None:
    row = timed("b", "c", "pictures/s", [0.1], [0.5])
    assert (row["ours"], row["peer"], row["ratio"]) == pytest.approx((10, 2, 5))


def test_bytes_are_better_when_they_are_fewer() -> None:
    assert counted("b", "c", "bytes/picture", 100, 250, 90)["ratio"] == 2.5
    assert counted("b", "c", "bytes/picture", 100, None, 90)["ratio"] is None


def test_a_peer_that_is_not_there_is_said_to_be_so() -> None:
    case = against("decode", "CompressAI", there=False)
    assert case == "decode vs CompressAI (not installed: pip install 'cdinfer[bench]')"
    row = timed("b", case, "s", [1.0], None)
    assert (row["peer"], row["ratio"]) == (None, None)


def test_a_table_has_a_dash_for_what_there_is_not() -> None:
    text = table([counted("b", "c", "%", 12345.6, None, 0.5)])
    assert text.splitlines()[-1].split() == [
        "|", "c", "|", "12,346", "|", "-", "|", "%", "|", "-", "|", "0.5", "|",
    ]  # fmt: skip
