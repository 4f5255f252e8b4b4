import math
import struct
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdinfer.bitstream import ContextModel, rans, static_model
from tests.bitstream.models import contexts_slowly, random_model, random_symbols

#: Two channels: 3 symbols and 4 contexts, 2 symbols and 1 context.
PARTS = {
    "sizes": [3, 2],
    "zeros": [1, 0],
    "mean_taps": [[0, 0, -1, 0, 16], [0, 0, 0, -1, -5], [1, 0, 1, 1, 4096]],
    "activity_taps": [[0, 0, 0, -1, 16], [1, 1, -1, 1, 7]],
    "mean_edges": [[0, 1]],
    "activity_edges": [[0, 2]],
    "frequencies": [[2000, 2000, 96], [96, 2000, 2000], [1, 1, 4094], [4094, 1, 1], [4000, 96, 0]],
}


def build(**changes) -> ContextModel:
    return ContextModel(**{name: np.array(part) for name, part in (PARTS | changes).items()})


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**9), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_rows_are_those_of_an_independent_implementation(seed, channels, height, width) -> None:
    model = random_model(seed, channels, largest=[9, 256][seed % 5 == 0])
    symbols = random_symbols(model, (2, height, width), seed, calm=bool(seed % 2))
    rows = rans.contexts(symbols, model).tolist()
    assert rows == [contexts_slowly(model, one) for one in symbols]


def test_a_row_worked_out_by_hand() -> None:
    """At (1, 1) of channel 0: above is +1, left is -1."""
    symbols = np.array([[[[1, 2], [0, 1]], [[0, 0], [0, 0]]]], dtype=np.uint8)
    # mean: clamp(floor(16 / 16)) + clamp(floor(5 / 16)) = 1 + 0, activity: 0 + floor(16 / 16) = 1
    assert rans.contexts(symbols, build())[0, 0].tolist() == [[0, 0], [0, 2]]
    assert (rans.contexts(symbols, build())[0, 1] == 4).all()


def test_parts_of_sums_are_clamped_before_they_are_added() -> None:
    weights = {"mean_taps": [[0, 0, -1, 0, 4096], [0, 0, 0, -1, -4096]], "mean_edges": [[0, 0]]}
    model = build(**weights)
    # At (1, 1): above 1 gives +31, left 1 gives -31, together 0: edge 0 is reached.
    symbols = np.array([[[[1, 2], [2, 1]]]], dtype=np.uint8)
    assert rans.contexts(symbols, model)[0, 0, 1, 1] >= 2
    unclamped = build(**weights | {"mean_taps": [[0, 0, -1, 0, 4096], [0, 0, 0, -1, -4095]]})
    symbols[0, 0, 0, 1] = 1  # above 0, left 1: -31
    assert rans.contexts(symbols, unclamped)[0, 0, 1, 1] < 2


def test_channels_do_not_depend_on_later_ones() -> None:
    model = random_model(5, channels=4)
    symbols = random_symbols(model, (2, 5, 6))
    rows = rans.contexts(symbols, model)
    for c in range(1, 4):
        np.testing.assert_array_equal(rans.contexts(symbols[:, :c], model), rows[:, :c])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sizes": [3.0, 2.0]}, "sizes of float64"),
        ({"sizes": [3, 2 + 65536]}, "sizes of int64 out of range"),  # right only after wrapping
        ({"zeros": [1, 256]}, "zeros of int64 out of range"),
        ({"sizes": [[3, 2]]}, r"sizes \(1, 2\)"),
        ({"sizes": [], "zeros": []}, "sizes of float64|sizes"),
        ({"zeros": [1]}, r"zeros \(1,\)"),
        ({"sizes": [3, 1]}, "outside 2..256"),
        ({"sizes": [257, 2]}, "outside 2..256"),
        ({"zeros": [3, 0]}, "zeros that are no symbols"),
        ({"mean_taps": [[0, 0, -1, 0]]}, r"taps \(1, 4\)"),
        ({"mean_taps": [[0, 0, 0, 0, 1]]}, "not decoded yet"),
        ({"mean_taps": [[0, 0, 0, 1, 1]]}, "not decoded yet"),
        ({"mean_taps": [[0, 0, 1, 0, 1]]}, "not decoded yet"),
        ({"mean_taps": [[0, 1, 0, 0, 1]]}, "not decoded yet"),
        ({"mean_taps": [[1, 0, 0, 2, 1]]}, "not decoded yet"),
        ({"mean_taps": [[1, 0, -2, 0, 1]]}, "not decoded yet"),
        ({"mean_taps": [[2, 0, 0, 0, 1]]}, "not decoded yet"),
        ({"activity_taps": [[0, -1, 0, 0, 1]]}, "not decoded yet"),
        ({"mean_taps": [[1, 0, 0, 0, 1], [0, 0, -1, 0, 1]]}, "out of order"),
        ({"mean_taps": [[1, 0, 0, 0, 1], [1, 0, 0, 0, 2]]}, "out of order"),
        ({"mean_taps": [[1, 0, 0, 0, 4097]]}, "weights out of range"),
        ({"mean_taps": [[1, 0, 0, 0, -4097]]}, "weights out of range"),
        ({"mean_taps": [[1, 0, 0, 0, -32768]]}, "weights out of range"),
        ({"activity_taps": [[1, 0, 0, 0, -1]]}, "weights out of range"),
        ({"mean_edges": [[0, 1, 1]]}, r"edges \(1, 3\)"),
        ({"mean_edges": [[0, 63]]}, "edges out of order or range"),
        ({"mean_edges": [[0, -62]]}, "edges out of order or range"),
        ({"activity_edges": [[0, 0]]}, "edges out of order or range"),
        ({"activity_edges": [[0, 63]]}, "edges out of order or range"),
        ({"mean_edges": [[2, 1]]}, "edges out of order or range"),
        ({"mean_edges": [[-1, 1]]}, "edges out of order or range"),
        ({"mean_edges": [[0, 2], [0, 1]]}, "edges out of order or range"),
        ({"mean_edges": [[0, 1], [0, 1]]}, "edges out of order or range"),
        ({"frequencies": PARTS["frequencies"][1:]}, r"\(4, 3\) tables for 5 contexts"),
        ({"frequencies": [[*row, 0] for row in PARTS["frequencies"]]}, r"\(5, 4\) tables"),
        ({"frequencies": [[4095, 1, 1], *PARTS["frequencies"][1:]]}, "sum to 4096"),
        ({"frequencies": [[4095, 1, 0], *PARTS["frequencies"][1:]]}, "at least 1"),
        ({"frequencies": [*PARTS["frequencies"][:4], [4000, 95, 1]]}, "at least 1"),
    ],
)
def test_each_kind_of_nonsense_is_refused(changes, reason) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        build(**changes)
    assert str(caught.value).endswith("damaged; copy it again")
    assert "\n" not in str(caught.value)


def test_too_many_taps_of_a_channel_are_refused() -> None:
    channels = 30
    taps = [(29, of, y, x, 1) for of in range(29) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    parts = {"sizes": [2] * channels, "zeros": [0] * channels}
    parts |= {"frequencies": [[2048, 2048]] * channels, "activity_taps": np.zeros((0, 5), int)}
    parts |= {"mean_edges": np.zeros((0, 2), int), "activity_edges": np.zeros((0, 2), int)}
    assert len(build(**parts, mean_taps=taps[:256]).mean_taps) == 256
    with pytest.raises(ValueError, match="more than 256 taps of a channel"):
        build(**parts, mean_taps=taps[:257])


def test_too_many_entries_are_refused() -> None:
    edges = [(0, edge) for edge in range(-61, 63)]
    tables = np.full((125 * 3, 256), 16)
    parts = {"sizes": [256], "zeros": [128], "mean_taps": np.zeros((0, 5), int)}
    parts |= {"activity_taps": np.zeros((0, 5), int), "mean_edges": edges}
    fits = build(**parts, activity_edges=[(0, 1)], frequencies=tables[:250])
    assert fits.frequencies.size == 64_000
    with pytest.raises(ValueError, match="more than 65536 entries"):
        build(**parts, activity_edges=[(0, 1), (0, 2)], frequencies=tables)


def test_more_than_256_channels_are_refused() -> None:
    assert len(static_model(np.full((256, 2), 2048)).sizes) == 256
    with pytest.raises(ValueError, match=r"sizes \(257,\)"):
        static_model(np.full((257, 2), 2048))


def test_a_model_keeps_its_own_read_only_copy() -> None:
    given_ = np.array([[2048, 2048]], dtype=np.uint16)
    model = static_model(given_)
    given_[0] = [1, 4095]
    assert model.frequencies.tolist() == [[2048, 2048]]
    with pytest.raises(ValueError, match="read-only"):
        model.frequencies[0, 0] = 1


def test_a_static_model_has_one_row_a_channel() -> None:
    model = static_model(np.array([[2048, 1024, 1024], [4094, 1, 1]]))
    symbols = random_symbols(model, (2, 3, 4))
    assert model.first_rows.tolist() == [0, 1, 2]
    assert (rans.contexts(symbols, model) == np.arange(2)[:, None, None]).all()


def test_least_bits_are_those_of_the_likeliest_symbol_in_any_context() -> None:
    expected = [-math.log2(4094 / 4096), -math.log2(4000 / 4096)]
    assert build().least_bits.tolist() == pytest.approx(expected)


def test_packed_parts_tell_models_apart() -> None:
    changes = [
        {},
        {"zeros": [1, 1]},
        {"mean_taps": PARTS["mean_taps"][:2]},
        {"activity_taps": PARTS["activity_taps"][:1]},
        {"mean_edges": [[0, 2]]},
        {"activity_edges": [[0, 3]]},
        {"frequencies": [[2000, 1999, 97], *PARTS["frequencies"][1:]]},
        {"mean_edges": [[1, 1]], "frequencies": None},
    ]
    changes[-1]["frequencies"] = [*PARTS["frequencies"][:2], [4000, 96, 0], [1, 4095, 0]]
    assert len({build(**change).pack() for change in changes}) == len(changes)


def test_packed_parts_are_shapes_then_little_endian_numbers() -> None:
    shapes = struct.pack("<12I", 2, 2, 3, 5, 2, 5, 1, 2, 1, 2, 5, 3)
    types = {"sizes": "<u2", "zeros": "u1", "frequencies": "<u2"}
    contents = [np.array(part, types.get(name, "<i2")).tobytes() for name, part in PARTS.items()]
    assert build().pack() == shapes + b"".join(contents)
    assert [*PARTS] == [field.name for field in fields(ContextModel)]
    assert build().num_bytes == len(build().pack()) - len(shapes)
