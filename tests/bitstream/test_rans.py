import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cdinfer
from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.rans import _decode, decode, encode, num_lanes
from cdinfer.bitstream.tables import Tables, build_tables, ideal_bits

GOLDEN = Path(__file__).parents[1] / "golden"
MANY = (16, 28, 28)  # four lanes
FEW = (8, 7, 9)  # one lane


def make(shape, batch=1, length=7, seed=0, spread=1.0):
    """Laplacian symbols and the tables of their own histograms."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.1, spread, (1, shape[0], 1, 1))
    centred = np.rint(rng.laplace(0, scales, (batch, *shape)))
    symbols = np.clip(centred + length // 2, 0, length - 1).astype(np.uint8)
    counts = [np.bincount(symbols[:, c].ravel(), minlength=length) for c in range(shape[0])]
    return symbols, build_tables(np.array(counts))


def decode_slowly(payload, frequencies, shape):
    """A second decoder, from the description alone: big integers, lists, one symbol a turn."""
    channels, plane = shape[0], shape[1] * shape[2]
    lanes = 4 if channels * plane >= 12288 else 1
    words = [word for (word,) in struct.iter_unpack("<H", payload)]
    states = [words[2 * k] + words[2 * k + 1] * 65536 for k in range(lanes)]
    used, symbols = 2 * lanes, []
    for c in range(channels):
        for j in range(plane):
            rest, slot = divmod(states[j % lanes], 4096)
            s = 0
            while slot >= frequencies[c][s]:
                slot -= frequencies[c][s]
                s += 1
            state = frequencies[c][s] * rest + slot
            if state < 65536:
                state = state * 65536 + words[used]
                used += 1
            states[j % lanes] = state
            symbols.append(s)
    assert states == [65536] * lanes
    assert used == len(words)
    return symbols


@st.composite
def batches(draw):
    """Any small batch, tables as skewed as they come, sometimes with symbols they hardly expect."""
    length = draw(st.integers(2, 256))
    channels = draw(st.sampled_from([1, 2, 5]))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if draw(st.booleans()):  # enough symbols for four lanes, with every remainder
        height, width = 111 + height, 111 + width
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = rng.integers(0, 10, (channels, length)) ** draw(st.sampled_from([1, 9]))
    symbols = rng.integers(0, length, (draw(st.integers(1, 3)), channels, height, width))
    if draw(st.booleans()):
        symbols[:] = counts.argmax(axis=1)[:, None, None]
    return symbols.astype(np.uint8), build_tables(counts)


@settings(deadline=None, max_examples=80)
@given(batches())
def test_any_batch_comes_back_at_nearly_its_ideal_size(batch) -> None:
    symbols, tables = batch
    payloads = encode(symbols, tables)
    assert np.array_equal(decode(payloads, tables, symbols.shape[1:]), symbols)
    ideal = ideal_bits(symbols, tables) / 8
    states = 4 * num_lanes(symbols[0].size)
    for payload, size in zip(payloads, ideal, strict=True):
        assert 0.99 * size <= len(payload) <= 1.02 * size + states + 2


@pytest.mark.parametrize(("shape", "limit"), [(MANY, 1.007), ((8, 28, 28), 1.01)])
def test_real_latents_cost_hardly_more_than_their_ideal(shape, limit) -> None:
    symbols, tables = make(shape, batch=8, spread=0.8)
    real = sum(map(len, encode(symbols, tables)))
    assert real <= limit * ideal_bits(symbols, tables).sum() / 8


@pytest.mark.parametrize("shape", [FEW, MANY, (1, 1, 1), (7, 43, 41)])
def test_an_independent_decoder_reads_the_same_symbols(shape) -> None:
    symbols, tables = make(shape)
    (payload,) = encode(symbols, tables)
    assert decode_slowly(payload, tables.frequencies.tolist(), shape) == symbols.ravel().tolist()


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_a_stream_has_the_same_bytes_alone_in_a_batch_and_from_two_threads(shape) -> None:
    symbols, tables = make(shape, batch=32)
    together = encode(symbols, tables)
    assert together == [encode(one[None], tables)[0] for one in symbols]
    alone = [decode([payload], tables, shape)[0] for payload in together]
    assert np.array_equal(np.stack(alone), symbols)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(decode, together, tables, shape) for _ in range(8)]
        assert all(np.array_equal(future.result(), symbols) for future in futures)


def test_an_empty_batch_is_an_empty_batch() -> None:
    symbols, tables = make(FEW)
    assert encode(symbols[:0], tables) == []
    assert decode([], tables, FEW).shape == (0, *FEW)


def test_strided_symbols_are_coded_as_they_look() -> None:
    symbols, tables = make((8, 6, 6), batch=2)
    turned = symbols.swapaxes(2, 3)
    assert encode(turned, tables) == encode(turned.copy(), tables)


def test_symbols_beyond_the_tables_are_refused() -> None:
    symbols, tables = make(FEW)
    symbols[0, 3, 2, 1] = 7
    with pytest.raises(ValueError, match=r"below 7.*got 7.*tables of the codec"):
        encode(symbols, tables)


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_a_damaged_payload_decodes_to_an_error_or_to_other_symbols(shape) -> None:
    """The container's checksum tells other symbols apart; no damage may pass unseen."""
    symbols, tables = make(shape)
    (payload,) = encode(symbols, tables)
    bits = range(0, 8 * len(payload), 1 if shape == FEW else 29)
    for bit in bits:
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(BitstreamError):
            assert not np.array_equal(decode([bytes(damaged)], tables, shape), symbols)
    for size in range(len(payload)):
        with pytest.raises(BitstreamError, match="copy the file or encode"):
            decode([payload[:size]], tables, shape)
    for extra in (b"\0", b"\0\0"):
        with pytest.raises(BitstreamError, match="damaged or truncated"):
            decode([payload + extra], tables, shape)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([(1, 1, 1), (2, 3, 3), (1, 112, 113)]), st.binary(max_size=64))
def test_hostile_bytes_are_refused_or_are_what_we_would_have_written(shape, payload) -> None:
    tables = Tables(np.array([[1, 4094, 1], [2000, 2000, 96]])[: shape[0]])
    with contextlib.suppress(BitstreamError):
        assert encode(decode([payload], tables, shape), tables) == [payload]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([1, 4]), st.lists(st.integers(0, 65535), min_size=8, max_size=40))
def test_no_index_of_the_decoder_is_ever_out_of_range(lanes, words) -> None:
    """The kernel again as plain Python, where numpy checks every index."""
    tables = Tables(np.array([[1, 4094, 1], [1365, 1365, 1366]]))
    results = []
    for kernel in (_decode.__wrapped__, _decode):
        symbols, status = np.zeros((1, 2, 11), dtype=np.uint8), np.zeros(1, dtype=np.uint8)
        payload, ends = np.array(words, dtype=np.uint16), np.array([len(words)])
        kernel(payload, ends, tables.lookup, lanes, symbols, status)
        results.append((status.item(), symbols.tolist()))
    assert results[0] == results[1]


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=100, max_size=3000), st.integers(0, 2))
def test_a_hostile_stream_is_named_and_spares_its_neighbours(noise, index) -> None:
    symbols, tables = make(MANY, batch=3)
    payloads = encode(symbols, tables)
    payloads[index] = noise
    with pytest.raises(BitstreamError) as caught:
        decode(payloads, tables, MANY)
    assert caught.value.index == index
    assert "\n" not in str(caught.value)
    del payloads[index]
    assert np.array_equal(decode(payloads, tables, MANY), np.delete(symbols, index, axis=0))


def test_a_stream_never_borrows_words_from_the_next() -> None:
    symbols, tables = make(MANY, batch=2)
    first, second = encode(symbols, tables)
    with pytest.raises(BitstreamError, match="ends early") as caught:
        decode([first[:-2], first[-2:] + second], tables, MANY)
    assert caught.value.index == 0


def test_each_kind_of_damage_is_told_apart() -> None:
    tables, shape = Tables(np.array([[4095, 1]])), (1, 1, 2)
    (payload,) = encode(np.ones((1, *shape), dtype=np.uint8), tables)
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
            decode([damaged], tables, shape)


def test_golden_stream_decodes_and_encodes_as_it_always_did() -> None:
    """rans-four-lanes.bin and .json were written once; they may never be regenerated."""
    golden = json.loads((GOLDEN / "rans-four-lanes.json").read_text())
    payload = (GOLDEN / "rans-four-lanes.bin").read_bytes()
    tables, shape = Tables(np.array(golden["frequencies"])), tuple(golden["shape"])
    symbols = np.array([list(map(int, row)) for row in golden["symbols"]], dtype=np.uint8)
    symbols = symbols.reshape(1, *shape)
    assert num_lanes(symbols.size) == 4
    assert np.array_equal(decode([payload], tables, shape), symbols)
    assert encode(symbols, tables) == [payload]


ROUND_TRIP = """
import sys
import numpy as np
from cdinfer.bitstream.rans import decode, encode
from cdinfer.bitstream.tables import build_tables
import cdinfer
assert cdinfer.__path__[0].startswith(sys.argv[1]), cdinfer.__path__
if sys.argv[2:]:  # no file may grow: a full disk
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
symbols = np.arange(60, dtype=np.uint8).reshape(2, 2, 3, 5) % 3
tables = build_tables(np.ones((2, 3), dtype=np.int64))
assert (decode(encode(symbols, tables), tables, (2, 3, 5)) == symbols).all()
print("works")
"""


def copy_package(folder: Path) -> Path:
    """Copy what the coder needs, without what Python or numba cached."""
    package = folder / "cdinfer"
    source = Path(cdinfer.__path__[0]) / "bitstream"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, package / "bitstream", ignore=ignore)
    (package / "__init__.py").touch()
    return package


def round_trip(folder: Path, *args: str, **environment: str) -> str:
    """Code a batch in a new process and return what it said on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-c", ROUND_TRIP, str(folder), *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert done.stdout == "works\n", done.stderr
    return done.stderr


def test_the_coder_works_and_says_so_where_no_cache_folder_can_be_made(tmp_path) -> None:
    package = copy_package(tmp_path)
    blocker = package / "bitstream" / "__pycache__"
    blocker.write_text("a file where numba wants a folder stops even the superuser")
    below = str(blocker / "below")
    said = round_trip(tmp_path, NUMBA_CACHE_DIR=below, XDG_CACHE_HOME=below, HOME=below)
    assert said.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes with setrlimit")
def test_the_coder_works_and_says_so_where_its_cache_cannot_be_saved(tmp_path) -> None:
    copy_package(tmp_path)
    said = round_trip(tmp_path, "full disk", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert said.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


def test_the_coder_is_compiled_once_for_all_processes(tmp_path) -> None:
    copy_package(tmp_path)
    cache = tmp_path / "cache"
    assert round_trip(tmp_path, NUMBA_CACHE_DIR=str(cache)) == ""
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")}
    assert len(written) == 4  # an index and a kernel, for encoding and decoding
    assert round_trip(tmp_path, NUMBA_CACHE_DIR=str(cache)) == ""
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")} == written
