import contextlib
import json
import math
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdinfer.bitstream import BitstreamError, ContextModel, build_tables, static_model
from cdinfer.bitstream.rans import (
    contexts,
    decode,
    decode_more,
    encode,
    encode_more,
    ideal_bits,
)
from tests.bitstream.models import decode_slowly, random_model, random_symbols

SEEDS = st.integers(0, 10**9)


def laplacian(shape, bits, batch=1, seed=0):
    """Static symbols ``(batch, *shape)`` of about ``bits`` each and a model of their histograms."""
    rng = np.random.default_rng(seed)
    scale = {1.3: 0.41, 0.79: 0.267}[bits] * rng.uniform(0.8, 1.2, (1, shape[0], 1, 1))
    symbols = np.clip(np.rint(rng.laplace(3, scale, (batch, *shape))), 0, 6).astype(np.uint8)
    counts = [np.bincount(symbols[:, c].ravel(), minlength=7) for c in range(shape[0])]
    return symbols, static_model(build_tables(np.array(counts)))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 6), st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_any_batch_comes_back_at_nearly_its_ideal_size(seed, batch, height, width, calm) -> None:
    model = random_model(seed, 1 + seed % 4, largest=[9, 256][seed % 5 == 0], skew=1 + seed % 9)
    symbols = random_symbols(model, (batch, height, width), seed, calm)
    payloads = encode(symbols, model)
    np.testing.assert_array_equal(decode(payloads, model, symbols.shape[1:]), symbols)
    ideal = ideal_bits(symbols, model) / 8
    for payload, size in zip(payloads, ideal, strict=True):
        assert 0.99 * size <= len(payload) <= 1.01 * size + 4


@settings(deadline=None, max_examples=15)
@given(SEEDS)
def test_an_independent_decoder_reads_the_same_symbols(seed) -> None:
    model = random_model(seed)
    symbols = random_symbols(model, (1, 5, 4), seed, calm=True)
    (payload,) = encode(symbols, model)
    np.testing.assert_array_equal(decode_slowly(model, payload, (3, 5, 4)), symbols[0])


@pytest.mark.parametrize(
    ("shape", "bits", "limit"), [((16, 28, 28), 1.3, 1.004), ((8, 28, 28), 0.79, 1.01)]
)
def test_static_streams_cost_hardly_more_than_their_ideal(shape, bits, limit) -> None:
    symbols, model = laplacian(shape, bits, batch=8)
    ideal = ideal_bits(symbols, model)
    assert ideal.mean() / symbols[0].size == pytest.approx(bits, abs=0.05)
    sizes = np.array([len(payload) for payload in encode(symbols, model)])
    assert (sizes <= limit * ideal / 8).all()


def test_context_streams_cost_hardly_more_than_their_ideal() -> None:
    model = random_model(1)
    symbols = random_symbols(model, (8, 40, 50), calm=True)
    for payload, bits in zip(encode(symbols, model), ideal_bits(symbols, model), strict=True):
        assert len(payload) <= 1.005 * bits / 8 + 4


def test_ideal_bits_agree_with_the_definition_symbol_by_symbol() -> None:
    model = random_model(0)
    symbols = random_symbols(model, (2, 4, 6))
    rows, expected = contexts(symbols, model), [0.0, 0.0]
    for (b, c, y, x), s in np.ndenumerate(symbols):
        expected[b] -= math.log2(model.frequencies[rows[b, c, y, x], s] / 4096)
    assert ideal_bits(symbols, model) == pytest.approx(expected)


@pytest.mark.parametrize("contextual", [True, False])
def test_a_stream_has_the_same_bytes_alone_in_a_batch_and_from_two_threads(contextual) -> None:
    model = random_model(3, contexts=contextual)
    symbols = random_symbols(model, (11, 12, 13), calm=True)
    shape = symbols.shape[1:]
    together = encode(symbols, model)
    assert together == [encode(one[None], model)[0] for one in symbols]
    for size in (1, 3, 4, 5):  # every remainder of four side by side
        np.testing.assert_array_equal(decode(together[:size], model, shape), symbols[:size])
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(decode, together, model, shape) for _ in range(8)]
        assert all(np.array_equal(future.result(), symbols) for future in futures)


def test_streams_of_very_different_lengths_decode_side_by_side() -> None:
    model = static_model(np.array([[4090, 3, 3]]))
    symbols = np.zeros((4, 1, 9, 11), np.uint8)
    symbols[1] = np.random.default_rng(0).integers(0, 3, (1, 9, 11))
    symbols[3, 0, -1] = 2
    payloads = encode(symbols, model)
    assert len(payloads[0]) == 4
    np.testing.assert_array_equal(decode(payloads, model, (1, 9, 11)), symbols)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_channels_coded_in_two_goes_come_back_in_two_goes(seed) -> None:
    model, first = random_model(seed, channels=4), 1 + seed % 3
    symbols = random_symbols(model, (3, 6, 7), seed, calm=True)
    before, after = encode(symbols[:, :first], model), encode_more(symbols, model, first)
    known = decode(before, model, (first, 6, 7))
    np.testing.assert_array_equal(known, symbols[:, :first])
    np.testing.assert_array_equal(decode_more(after, model, known, 4), symbols)


@pytest.mark.parametrize("batch", [1, 3, 4, 6])
def test_a_channel_with_one_row_serves_those_with_contexts(batch) -> None:
    """Channels 0 and 2 have one row of tables; channel 1 reads channel 0, channel 3 reads both."""
    sizes, zeros = [5, 4, 256, 6], [2, 1, 200, 0]
    taps = [[1, 0, 0, 1, 40], [3, 0, -1, 0, 25], [3, 2, 1, -1, -3]]
    activity = [[1, 1, 0, -1, 16], [3, 2, 0, 0, 1]]
    mean_edges, activity_edges = [[1, 0], [1, 3], [3, 1]], [[1, 2], [3, 4]]
    rows = np.repeat(sizes, [1, 6, 1, 4])
    counts = np.random.default_rng(0).integers(0, 50, (len(rows), 256))
    tables = [build_tables(c[None, :n])[0] for c, n in zip(counts, rows, strict=True)]
    padded = np.stack([np.pad(table, (0, 256 - len(table))) for table in tables])
    parts = map(np.array, (sizes, zeros, taps, activity, mean_edges, activity_edges, padded))
    model = ContextModel(*parts)
    symbols = random_symbols(model, (batch, 5, 6))
    payloads = encode(symbols, model)
    np.testing.assert_array_equal(decode(payloads, model, (4, 5, 6)), symbols)
    np.testing.assert_array_equal(decode_slowly(model, payloads[-1], (4, 5, 6)), symbols[-1])


def test_a_batch_of_damaged_streams_names_the_first() -> None:
    model = random_model(7)
    payloads = encode(random_symbols(model, (6, 12, 13)), model)
    short = [payload[: 4 + 2 * k] for k, payload in enumerate(payloads)]
    for batch in (short, [payloads[0], *short[1:]]):
        with pytest.raises(BitstreamError, match="ends early") as caught:
            decode(batch, model, (3, 12, 13))
        assert caught.value.index == int(batch is not short)


def test_an_empty_batch_is_an_empty_batch() -> None:
    model = random_model(0)
    assert encode(np.zeros((0, 3, 4, 5), np.uint8), model) == []
    assert decode([], model, (3, 4, 5)).shape == (0, 3, 4, 5)


def test_strided_symbols_are_coded_as_they_look() -> None:
    model = random_model(2)
    turned = random_symbols(model, (2, 6, 6)).swapaxes(2, 3)
    assert encode(turned, model) == encode(turned.copy(), model)


def test_symbols_beyond_the_tables_are_refused() -> None:
    model = static_model(np.array([[4094, 1, 1], [1, 4094, 1]]))
    symbols = np.zeros((2, 2, 3, 4), np.uint8)
    symbols[1, 1, 2, 1] = 3
    with pytest.raises(ValueError, match=r"below 3 in channel 1.*got 3.*tables of the codec"):
        encode(symbols, model)


def test_a_damaged_payload_decodes_to_an_error_or_to_other_symbols() -> None:
    """The container's checksum tells other symbols apart; no damage may pass unseen."""
    model, shape = random_model(4), (3, 7, 9)
    symbols = random_symbols(model, (1, 7, 9), calm=True)
    (payload,) = encode(symbols, model)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(BitstreamError):
            assert not np.array_equal(decode([bytes(damaged)], model, shape), symbols)
    for size in range(len(payload)):
        with pytest.raises(BitstreamError, match="copy the file or encode"):
            decode([payload[:size]], model, shape)
    for extra in (b"\0", b"\0\0"):
        with pytest.raises(BitstreamError, match="damaged or truncated"):
            decode([payload + extra], model, shape)


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.sampled_from([(1, 1, 1), (2, 3, 3), (1, 12, 13)]), st.binary(max_size=64))
def test_hostile_bytes_are_refused_or_are_what_we_would_have_written(seed, shape, payload) -> None:
    model = random_model(seed % 20, channels=2, largest=4)
    with contextlib.suppress(BitstreamError):
        assert encode(decode([payload], model, shape), model) == [payload]


UNCOMPILED = """
import json, sys
from cdinfer.bitstream import BitstreamError
from cdinfer.bitstream.rans import decode
from tests.bitstream.models import random_model
outcomes = []
for seed, batch in enumerate(json.load(sys.stdin)):
    try:
        decoded = decode([bytes.fromhex(one) for one in batch], random_model(seed), (3, 4, 5))
        outcomes.append(decoded.tolist())
    except BitstreamError as error:
        outcomes.append(str(error))
print(json.dumps(outcomes))
"""


def test_no_index_of_the_decoder_is_ever_out_of_range() -> None:
    """The kernels again as plain Python, where numpy checks every index and every sum."""
    rng = np.random.default_rng(0)
    batches, expected = [], []
    for seed in range(16):
        noise = [rng.bytes(2 * rng.integers(2, 60)) for _ in range(seed % 6)]
        model = random_model(seed)
        batches.append(noise + encode(random_symbols(model, (1, 4, 5), seed), model))
        try:
            expected.append(decode(batches[-1], model, (3, 4, 5)).tolist())
        except BitstreamError as error:
            expected.append(str(error))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNCOMPILED],
        input=json.dumps([[one.hex() for one in batch] for batch in batches]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=4, max_size=3000), st.integers(0, 4))
def test_a_hostile_stream_is_named_and_spares_its_neighbours(noise, index) -> None:
    model, shape = random_model(6), (3, 12, 13)
    symbols = random_symbols(model, (5, 12, 13), calm=True)
    payloads = encode(symbols, model)
    payloads[index] = noise
    with pytest.raises(BitstreamError) as caught:
        decode(payloads, model, shape)
    assert caught.value.index == index
    assert "\n" not in str(caught.value)
    del payloads[index]
    np.testing.assert_array_equal(decode(payloads, model, shape), np.delete(symbols, index, axis=0))


def test_a_stream_never_borrows_words_from_the_next() -> None:
    symbols, model = laplacian((8, 9, 9), 1.3, batch=5)
    payloads = encode(symbols, model)
    moved = [payloads[0][:-2], payloads[0][-2:] + payloads[1], *payloads[2:]]
    with pytest.raises(BitstreamError, match="ends early") as caught:
        decode(moved, model, (8, 9, 9))
    assert caught.value.index == 0


def test_each_kind_of_damage_is_told_apart() -> None:
    model, shape = static_model(np.array([[4095, 1]])), (1, 1, 2)
    (payload,) = encode(np.ones((1, *shape), dtype=np.uint8), model)
    low, high, word = struct.unpack("<3H", payload)
    cases = {
        payload + b"\0": "7 bytes cannot be its length",
        payload[:2]: "2 bytes cannot be its length",
        payload[:4]: "ends early",
        struct.pack("<3H", low, 0, word): "out of range",
        struct.pack("<3H", low, high, word ^ 1): "does not end where",
        payload + b"\0\0": "left over",
    }
    for damaged, reason in cases.items():
        with pytest.raises(BitstreamError, match=reason):
            decode([damaged], model, shape)
