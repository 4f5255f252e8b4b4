import contextlib
import hashlib
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdinfer.bitstream import (
    BitstreamError,
    Header,
    Parsed,
    checked_size,
    container,
    pack,
    parse,
    static_model,
    stream_id,
    verify,
)
from cdinfer.bitstream.container import rebuild
from cdinfer.bitstream.rans import decode_more, encode, encode_more
from tests.bitstream.models import random_model, random_symbols

STRIDE = 8
CODEC = "CAE_"
STREAM = 0x1D231A09
MODEL = random_model(1, channels=4, largest=5)
FIELDS = (("EXIF", b"MM\0*"), ("X_0Z", b""))

SIDES = st.one_of(st.integers(1, 70_000), st.integers(1, 2**32 - 1))
TAGS = st.text("ABCXYZ0189_", min_size=4, max_size=4)
HEADERS = st.builds(
    Header,
    codec=TAGS,
    stream=st.integers(0, 2**32 - 1),
    height=SIDES,
    width=SIDES,
    provisional=st.booleans(),
    groups=st.sampled_from([(), (1, 1), (3, 250, 2, 1), (255, 1), (1,) * 255]),
    fields=st.dictionaries(TAGS, st.binary(max_size=9), max_size=3).map(lambda d: (*d.items(),)),
)


def write(groups=(), fields=(), height=67, width=83) -> tuple[bytes, np.ndarray]:
    """One real file and its symbols, of 4 channels."""
    symbols = random_symbols(MODEL, (1, -(-height // STRIDE), -(-width // STRIDE)), calm=True)
    header = Header(CODEC, STREAM, height, width, groups=groups, fields=fields)
    payloads, first = [], 0
    for last in header.ends(4):
        payloads += encode_more(symbols[:, :last], MODEL, first)
        first = last
    return pack(header, symbols[0], *payloads), symbols[0]


def read(data: bytes, max_pixels=2**29, groups=None, model=MODEL) -> tuple[Parsed, np.ndarray]:
    """What a codec does with a file."""
    parsed = parse(data, expect_codec=CODEC, expect_stream=STREAM, groups=groups, index=0)
    height, width = checked_size(parsed, model, STRIDE, max_pixels)
    symbols = np.empty((1, 0, height, width), np.uint8)
    for payload, last in zip(parsed.payloads, parsed.header.ends(4), strict=False):
        symbols = decode_more([payload], model, symbols, last)
    verify(parsed, symbols[0])
    return parsed, symbols[0]


def crc(start: bytes, symbols) -> bytes:
    return struct.pack("<I", zlib.crc32(start + bytes(symbols)))


def test_a_file_holds_what_the_format_says_byte_for_byte() -> None:
    symbols = np.array([[[0, 3], [1, 2]]], dtype=np.uint8)
    header = Header("HYPR", 0x04030201, 0x0605, 0x0807, provisional=True)
    start = b"CDI1HYPR" + bytes([1, 2, 3, 4, 5, 6, 7, 8, 1, 1])
    assert pack(header, symbols, b"payload") == start + crc(start, [0, 3, 1, 2]) + b"payload"


def test_a_file_of_groups_and_fields_holds_what_the_format_says_byte_for_byte() -> None:
    symbols = np.array([[[7, 8]], [[5, 4]], [[1, 2]]], dtype=np.uint8)
    fields = (("EXIF", b"abc"), ("ICCP", b""))
    header = Header("CAE_", 0, 70_000, 1, groups=(2, 1), fields=fields)
    start = b"CDI1CAE_" + bytes(4 + 2) + b"\x01\x00" + struct.pack("<I", 70_000) + b"\x02\x02"
    start += b"\x02" + struct.pack("<I", 5) + b"\x01" + struct.pack("<I", 300)
    start += b"\x02EXIF\x03\0\0\0abcICCP\0\0\0\0"
    crcs = crc(start, [7, 8, 5, 4]) + crc(start, [1, 2])
    assert pack(header, symbols, b"five!", b"x" * 300) == start + crcs + b"five!" + b"x" * 300


def test_a_side_of_65536_takes_a_longer_field_after_both_short_ones() -> None:
    symbols = np.zeros((1, 1, 1), dtype=np.uint8)
    data = pack(Header(CODEC, 0, 65_535, 65_536), symbols, b"")
    assert data[12:20] == struct.pack("<HHI", 65_535, 0, 65_536)
    assert len(data) == 26
    assert len(pack(Header(CODEC, 0, 65_535, 65_535), symbols, b"")) == 22


@settings(deadline=None, max_examples=50)
@given(HEADERS, st.lists(st.binary(max_size=20), min_size=255, max_size=255))
def test_any_header_comes_back(header, payloads) -> None:
    payloads = payloads[: max(1, len(header.groups))]
    symbols = np.arange(2 * (sum(header.groups) or 3), dtype=np.uint8).reshape(-1, 1, 2)
    data = pack(header, symbols, *payloads)
    parsed = parse(data, index=4)
    assert (parsed.header, parsed.payloads, parsed.index) == (header, (*payloads,), 4)
    assert parsed.payload == b"".join(payloads)
    verify(parsed, symbols)
    assert rebuild(parsed.header, parsed.crcs, parsed.payloads) == data


HOSTILE = st.tuples(
    st.sampled_from([b"CDI1CAE_" + bytes(4) + b"\1\0\1\0" + bytes([f]) for f in range(4)]),
    st.sampled_from([b"\0", b"\1", b"\2", b"\3", b"\xff"]),
    st.lists(st.sampled_from([b"\0", b"\1", b"\2", b"EXIF", b"ICCP", b"\3\0\0\0"]), max_size=30),
)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda noise: b"CDI1" + noise),
        HOSTILE.map(lambda parts: parts[0] + parts[1] + b"".join(parts[2])),
    )
)
def test_hostile_bytes_parse_or_are_refused(data) -> None:
    with contextlib.suppress(BitstreamError):
        parsed = parse(data)
        again = rebuild(parsed.header, parsed.crcs, parsed.payloads)
        assert again == data  # one way only to write a file


KINDS = [((), ()), ((), FIELDS), ((1, 3), ()), ((2, 1, 1), FIELDS)]


@pytest.mark.parametrize(("groups", "fields"), KINDS)
def test_a_flipped_bit_anywhere_is_an_error(groups, fields) -> None:
    data, symbols = write(groups, fields, height=33, width=47)
    np.testing.assert_array_equal(read(data)[1], symbols)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError) as caught:
            read(bytes(damaged))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("groups", "fields"), KINDS)
def test_a_file_cut_anywhere_or_too_long_is_an_error(groups, fields) -> None:
    data, _ = write(groups, fields)
    for size in range(len(data)):
        with pytest.raises(BitstreamError, match=r"truncated.*copy the file or encode") as caught:
            read(data[:size])
        assert "\n" not in str(caught.value)
    with pytest.raises(BitstreamError, match=r"damaged.*left over"):
        read(data + b"\0\0")


def test_a_prefix_of_groups_reads_alone_whatever_follows() -> None:
    data, symbols = write((2, 1, 1), FIELDS)
    sizes = [len(payload) for payload in parse(data).payloads]
    for count, channels in ((1, 2), (2, 3), (3, 4)):
        end = len(data) - sum(sizes[count:])
        for rest in (data[end:], data[end:-1], b"", bytes(len(data) - end)):
            parsed, some = read(data[:end] + rest, groups=count)
            np.testing.assert_array_equal(some, symbols[:channels])
            assert (len(parsed.payloads), parsed.header.groups) == (count, (2, 1, 1))
        with pytest.raises(BitstreamError, match=f"inside channel group {count} of 3"):
            read(data[: end - 1], groups=count)


def test_a_file_cut_behind_a_group_says_how_to_read_what_is_there() -> None:
    data, _ = write((2, 1, 1))
    sizes = [len(payload) for payload in parse(data).payloads]
    with pytest.raises(BitstreamError, match=r"inside channel group 2 of 3.*ask for groups=1"):
        read(data[: -sum(sizes[1:])])
    with pytest.raises(BitstreamError, match="inside channel group 1 of 3; copy the file") as one:
        read(data[: -sum(sizes)])
    assert "groups=" not in str(one.value)


def test_more_groups_than_there_are_cannot_be_asked_for() -> None:
    for groups, have in (((), 1), ((2, 2), 2)):
        data, symbols = write(groups)
        np.testing.assert_array_equal(read(data, groups=have)[1], symbols)
        with pytest.raises(BitstreamError, match=f"file has {have} of them"):
            read(data, groups=have + 1)


def test_groups_of_another_number_of_channels_than_the_codecs_are_damage() -> None:
    data, _ = write((3, 1))
    with pytest.raises(BitstreamError, match="groups have 4 channels, its codec has 5"):
        read(data, model=random_model(0, channels=5))


@pytest.mark.parametrize("groups", [(), (2, 2)])
def test_symbols_changed_behind_the_coders_back_are_damage(groups) -> None:
    data, symbols = write(groups)
    for channel in range(4):
        changed = symbols.copy()
        changed[channel, 4, 3] ^= 1
        with pytest.raises(BitstreamError, match=r"checksum.*encode the picture again"):
            verify(parse(data), changed)


def test_unknown_fields_are_passed_over() -> None:
    data, symbols = write((), (("WHAT", b"ever"), ("EXIF", b"known")))
    parsed, some = read(data)
    np.testing.assert_array_equal(some, symbols)
    assert dict(parsed.header.fields) == {"WHAT": b"ever", "EXIF": b"known"}


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"\xff\xd8\xff\xe0", "not a .cdi file.*make one with: cdinfer encode IMAGE"),
        (0, b"\x89PNG", "not a .cdi file.*make one with: cdinfer encode IMAGE"),
        (0, b"CDI0", "'CDI0', used before b'CDI1'.*encode the picture again"),
        (0, b"CDI2", "written by a newer cdinfer.*'CDI2'.*update cdinfer"),
        (4, b"HYPR", "wrong codec: expected .* CAE_, got .* HYPR.*--codec"),
        (4, b"cae_", "not the name of a codec.*copy the file"),
        (8, b"\x08", "wrong stream: expected stream id 1d231a09, got 1d231a08.*--codec"),
        (12, b"\0\0\0\0" + bytes(8), "a side of the picture is 0.*copy the file"),
        (16, b"\x04", "written by a newer cdinfer.*flags 0x04.*update cdinfer"),
        (16, b"\x02\x01\x00", "damaged: 0 fields"),
        (16, b"\x02\x01\x01exif", "b'exif' is not the tag of a field"),
        (16, b"\x02\x01\x02EXIF\0\0\0\0EXIF\0\0\0\0", "one of them twice"),
        (16, b"\x02\x01\x01EXIF\xff\xff\xff\xff", "truncated: .* inside its header"),
        (17, b"\x00", "0 channel groups"),
        (17, b"\x02\x00\0\0\0\0\x04\0\0\0\0", r"2 channel groups of \[0, 4\] channels"),
        (17, b"\x02\xff\0\0\0\0\x02\0\0\0\0", r"2 channel groups of \[255, 2\] channels"),
        (17, b"\x02\x02\xff\xff\xff\xff\x02\0\0\0\0", "inside channel group 1 of 2"),
        (17, b"\x02\x02\0\0\0\0\x02\0\0\0\0", "bytes are left over"),
        (18, b"\0\0\0\0", "checksum does not match.*encode the picture again"),
        (12, b"\x01\x00\x01\x00", "payload does not decode"),
        (12, b"\xff\x7f\xff\x0f", r"32767 x 4095 pixels cannot fit.*copy the file"),
        (12, b"\x60\xea\x60\xea", "60000 x 60000 pixels.*--max-pixels 3600000000"),
    ],
)
def test_each_kind_of_damage_has_its_own_message(at, new, message) -> None:
    data, _ = write()
    with pytest.raises(BitstreamError, match=message) as caught:
        read(data[:at] + new + data[at + len(new) :])
    assert caught.value.index == 0
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("groups", [(), (2, 2)])
def test_an_absurd_size_is_refused_before_anything_is_allocated(groups) -> None:
    data, _ = write(groups)
    claim = data[:12] + struct.pack("<HH", 60_000, 60_000) + data[16:]
    tracemalloc.start()
    for max_pixels, message in [(2**29, "--max-pixels 3600000000"), (2**40, "cannot fit")]:
        with pytest.raises(BitstreamError, match=message):
            read(claim, max_pixels)
    for length in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"):
        with pytest.raises(BitstreamError, match="truncated"):
            parse(data[:16] + b"\x02\x01\x01ICCP" + length + data[18:])
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4095), st.integers(1, 4095), st.integers(1, 120), st.integers(1, 120))
def test_the_cheapest_possible_picture_is_not_called_absurd(first, second, height, width) -> None:
    model = static_model(np.array([[first, 4096 - first], [second, 4096 - second]]))
    cheapest = model.frequencies.argmax(axis=1).astype(np.uint8)
    symbols = np.tile(cheapest[:, None, None], (1, height, width))
    payloads = encode_more(symbols[None, :1], model, 0) + encode_more(symbols[None], model, 1)
    header = Header(CODEC, STREAM, 8 * height, 8 * width - 7)
    together = parse(pack(header, symbols, *encode(symbols[None], model)))
    apart = parse(pack(header._replace(groups=(1, 1)), symbols, *payloads))
    for parsed in (together, apart):
        assert checked_size(parsed, model, STRIDE) == (height, width)


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


def test_reading_headers_needs_neither_numba_nor_torch() -> None:
    code = "import sys, cdinfer.bitstream; print({'numba', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_checksums_are_verified_without_imagecodecs_too(monkeypatch) -> None:
    container._quick_crc32.cache_clear()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    try:
        assert container._quick_crc32() is zlib.crc32
    finally:
        container._quick_crc32.cache_clear()
