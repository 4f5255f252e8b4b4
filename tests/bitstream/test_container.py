import contextlib
import hashlib
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdinfer.bitstream import (
    BitstreamError,
    Header,
    Parsed,
    Tables,
    build_tables,
    checked_size,
    pack,
    parse,
    stream_id,
    verify,
)
from cdinfer.bitstream.rans import decode, encode

GOLDEN = Path(__file__).parents[1] / "golden"
STRIDE = 8
CODEC = "CAE_"
STREAM = 0x1D231A09

SIDES = st.one_of(st.integers(1, 70_000), st.integers(1, 2**32 - 1))
HEADERS = st.builds(
    Header,
    codec=st.text("ABCXYZ0189_", min_size=4, max_size=4),
    stream=st.integers(0, 2**32 - 1),
    height=SIDES,
    width=SIDES,
    provisional=st.booleans(),
)


def write(height=67, width=83, channels=3) -> tuple[bytes, np.ndarray, Tables]:
    """One real file, its symbols and tables."""
    rng = np.random.default_rng(0)
    shape = (1, channels, -(-height // STRIDE), -(-width // STRIDE))
    symbols = np.clip(np.rint(rng.laplace(3, 0.7, shape)), 0, 6).astype(np.uint8)
    tables = build_tables(np.array([np.bincount(s.ravel(), minlength=7) for s in symbols[0]]))
    (payload,) = encode(symbols, tables)
    return pack(Header(CODEC, STREAM, height, width), symbols[0], payload), symbols[0], tables


def read(data: bytes, tables: Tables, max_pixels: int = 2**29) -> tuple[Parsed, np.ndarray]:
    """What a codec does with a file."""
    parsed = parse(data, expect_codec=CODEC, expect_stream=STREAM, index=0)
    height, width = checked_size(parsed, tables, STRIDE, max_pixels)
    (symbols,) = decode([parsed.payload], tables, (len(tables.frequencies), height, width))
    verify(parsed, symbols)
    return parsed, symbols


def test_a_file_holds_what_the_format_says_byte_for_byte() -> None:
    symbols = np.array([[[0, 3], [1, 2]]], dtype=np.uint8)
    header = Header("HYPR", 0x04030201, 0x0605, 0x0807, provisional=True)
    start = b"CDI0HYPR" + bytes([1, 2, 3, 4, 5, 6, 7, 8, 1, 1])
    crc = struct.pack("<I", zlib.crc32(start + bytes([0, 3, 1, 2])))
    assert pack(header, symbols, b"payload") == start + crc + b"payload"


def test_a_side_of_65536_takes_a_longer_field_after_both_short_ones() -> None:
    symbols = np.zeros((1, 1, 1), dtype=np.uint8)
    data = pack(Header(CODEC, 0, 65_535, 65_536), symbols, b"")
    assert data[12:20] == struct.pack("<HHI", 65_535, 0, 65_536)
    assert len(data) == 26
    assert len(pack(Header(CODEC, 0, 65_535, 65_535), symbols, b"")) == 22


@settings(deadline=None, max_examples=100)
@given(HEADERS, st.binary(max_size=20), st.binary(max_size=20))
def test_any_header_comes_back(header, payload, content) -> None:
    symbols = np.frombuffer(content, dtype=np.uint8).reshape(1, 1, -1)
    parsed = parse(pack(header, symbols, payload), index=4)
    assert (parsed.header, parsed.payload, parsed.index) == (header, payload, 4)
    verify(parsed, symbols)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda noise: b"CDI0" + noise)))
def test_hostile_bytes_parse_or_are_refused(data) -> None:
    with contextlib.suppress(BitstreamError):
        parsed = parse(data)
        again = pack(parsed.header, np.zeros((1, 1, 1), dtype=np.uint8), parsed.payload)
        start = len(data) - len(parsed.payload) - 4
        assert again[:start] == data[:start]  # one way only to write a header


@pytest.mark.parametrize("height", [67, 1100])  # one lane, four lanes
def test_a_flipped_bit_anywhere_is_an_error(height) -> None:
    data, symbols, tables = write(height, width=83 if height == 67 else 250)
    assert np.array_equal(read(data, tables)[1], symbols)
    every = 1 if height == 67 else 13
    for bit in [*range(22 * 8), *range(22 * 8, 8 * len(data), every)]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            read(bytes(damaged), tables)


def test_a_file_cut_anywhere_is_an_error() -> None:
    data, _, tables = write()
    for size in range(len(data)):
        with pytest.raises(BitstreamError, match=r"truncated.*copy the file or encode") as caught:
            read(data[:size], tables)
        assert "\n" not in str(caught.value)
    with pytest.raises(BitstreamError, match="damaged"):
        read(data + b"\0\0", tables)


def test_symbols_changed_behind_the_coders_back_are_damage() -> None:
    data, symbols, _ = write()
    symbols = symbols.copy()
    symbols[2, 4, 3] ^= 1
    with pytest.raises(BitstreamError, match=r"checksum.*encode the picture again"):
        verify(parse(data), symbols)


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"\xff\xd8\xff\xe0", "not a .cdi file.*make one with: cdinfer encode IMAGE"),
        (0, b"\x89PNG", "not a .cdi file.*make one with: cdinfer encode IMAGE"),
        (0, b"CDI1", "written by a newer cdinfer.*'CDI1'.*update cdinfer"),
        (4, b"HYPR", "wrong codec: expected .* CAE_, got .* HYPR.*--codec"),
        (4, b"cae_", "not the name of a codec.*copy the file"),
        (8, b"\x08", "wrong stream: expected stream id 1d231a09, got 1d231a08.*--codec"),
        (12, b"\0\0\0\0" + bytes(8), "a side of the picture is 0.*copy the file"),
        (16, b"\x02", "written by a newer cdinfer.*flags 0x02.*update cdinfer"),
        (17, b"\x02", "written by a newer cdinfer.*2 channel groups.*update cdinfer"),
        (17, b"\x00", "0 channel groups"),
        (18, b"\0\0\0\0", "checksum does not match.*encode the picture again"),
        (12, b"\x01\x00\x01\x00", "payload does not decode"),
        (12, b"\xff\x7f\xff\x0f", r"32767 x 4095 pixels cannot fit.*copy the file"),
        (12, b"\x60\xea\x60\xea", "60000 x 60000 pixels.*--max-pixels 3600000000"),
    ],
)
def test_each_kind_of_damage_has_its_own_message(at, new, message) -> None:
    data, _, tables = write()
    with pytest.raises(BitstreamError, match=message) as caught:
        read(data[:at] + new + data[at + len(new) :], tables)
    assert "\n" not in str(caught.value)
    assert caught.value.index == 0


def test_claiming_60000_by_60000_pixels_costs_no_memory() -> None:
    data, _, tables = write()
    claim = data[:12] + struct.pack("<HH", 60_000, 60_000) + data[16:]
    tables.lookup.max()  # made once per codec, not per file
    tracemalloc.start()
    for max_pixels, message in [(2**29, "--max-pixels 3600000000"), (2**40, "cannot fit")]:
        with pytest.raises(BitstreamError, match=message):
            read(claim, tables, max_pixels)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4095),
    st.integers(1, 4095),
    st.integers(1, 120),
    st.integers(1, 120),
)
def test_the_cheapest_possible_picture_is_not_called_absurd(first, second, height, width) -> None:
    tables = Tables(np.array([[first, 4096 - first], [second, 4096 - second]]))
    cheapest = tables.frequencies.argmax(axis=1).astype(np.uint8)
    symbols = np.tile(cheapest[:, None, None], (1, height, width))
    (payload,) = encode(symbols[None], tables)
    parsed = parse(pack(Header(CODEC, STREAM, 8 * height, 8 * width - 7), symbols, payload))
    assert checked_size(parsed, tables, STRIDE) == (height, width)


def test_a_stream_id_tells_where_parts_end() -> None:
    ids = {
        stream_id(b"ab", b"c"),
        stream_id(b"a", b"bc"),
        stream_id(b"abc"),
        stream_id(b"abc", b""),
    }
    assert len(ids) == 4
    length = struct.pack("<Q", 2)
    assert stream_id(b"ab").to_bytes(4, "little") == hashlib.sha256(length + b"ab").digest()[:4]


def test_golden_file_reads_and_writes_as_it_always_did() -> None:
    """container-one-lane.cdi and .json were written once; they may never be regenerated."""
    golden = json.loads((GOLDEN / "container-one-lane.json").read_text())
    data = (GOLDEN / "container-one-lane.cdi").read_bytes()
    tables, header = Tables(np.array(golden["frequencies"])), Header(**golden["header"])
    symbols = np.array([list(map(int, row)) for row in golden["symbols"]], dtype=np.uint8)
    symbols = symbols.reshape(golden["shape"])
    parsed = parse(data, expect_codec=CODEC, expect_stream=header.stream)
    assert parsed.header == header
    assert (symbols.shape[0], *checked_size(parsed, tables, STRIDE)) == symbols.shape
    (decoded,) = decode([parsed.payload], tables, symbols.shape)
    verify(parsed, decoded)
    assert np.array_equal(decoded, symbols)
    assert pack(header, symbols, *encode(symbols[None], tables)) == data


def test_reading_headers_needs_neither_numba_nor_torch() -> None:
    code = "import sys, cdinfer.bitstream; print({'numba', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
