import re
import resource
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdinfer.bitstream import Header, pack, static_model
from cdinfer.bitstream.files import read_files, write_files
from cdinfer.data.blocks import Block, join

MODEL = static_model(np.array([[2048, 1024, 1024], [3584, 256, 256]]))
STREAM = 0x1234ABCD
STRIDE = 8

Sizes = list[tuple[int, int]]


def make(sizes: Sizes, seed: int = 0) -> list[bytes]:
    """Return real files of random symbols for pictures of ``sizes``."""
    rng = np.random.default_rng(seed)
    files = []
    for height, width in sizes:
        symbols = rng.integers(0, 3, (1, 2, -(-height // STRIDE), -(-width // STRIDE)), np.uint8)
        files += write_files(symbols, Header("CAE_", STREAM, height, width), MODEL)
    return files


def decode(files: list[bytes]) -> np.ndarray:
    """Return the symbols of files of one latent size, as a codec's ``unpack`` does."""
    return read_files(files, "CAE_", STREAM, MODEL, STRIDE, 2**20)[0]


def unpack(block: bytes) -> list[bytes]:
    opened = Block(memoryview(block), "test")
    return [opened[i] for i in range(len(opened))]


def read(block: bytes) -> list[np.ndarray]:
    return [decode([file])[0] for file in unpack(block)]


@pytest.mark.parametrize(
    "sizes",
    [[(48, 64)], [(48, 64)] * 5, [(41, 57), (48, 64), (45, 60)], [(1, 1)], [(70_000, 1)] * 2],
)
def test_every_file_is_rebuilt_byte_for_byte(sizes: Sizes) -> None:
    files = make(sizes)
    block = join(files)
    assert unpack(block) == files
    np.testing.assert_array_equal(Block(memoryview(block), "test").sizes, sizes)


def test_files_of_a_latent_size_decode_in_one_call() -> None:
    files = make([(41, 57), (48, 64), (45, 60)])
    np.testing.assert_array_equal(decode(unpack(join(files))), decode(files))


@pytest.mark.parametrize(
    "header", [{"fields": (("EXIF", b"camera"),)}, {"groups": (1, 1)}], ids=["fields", "groups"]
)
def test_files_with_more_than_networks_read_are_refused(header: dict[str, Any]) -> None:
    symbols = np.zeros((1, 2, 6, 8), np.uint8)
    groups = header.pop("groups", None)
    files = write_files(symbols, Header("CAE_", STREAM, 48, 64, **header), MODEL, groups)
    with pytest.raises(ValueError, match=r"one channel group, without fields such as EXIF.*encode"):
        join(make([(48, 64)]) + files)


def test_long_payloads_are_kept() -> None:
    nothing = np.zeros(0, np.uint8)
    files = [pack(Header("CAE_", STREAM, 8, 8), nothing, bytes(n)) for n in (0, 1, 65_536, 2**24)]
    block = join(files)
    assert unpack(block) == files
    assert len(block) == 22 + 8 + 4 * 4 + -(-4 * 25 // 8) + sum(len(file) - 22 for file in files)


def test_a_file_costs_its_checksum_and_the_spread_of_lengths() -> None:
    files = make([(48, 64)] * 100)
    payloads = [len(file) - 22 for file in files]
    bits = (max(payloads) - min(payloads)).bit_length()
    assert 0 < bits < 8
    assert len(join(files)) == 22 + 8 + 100 * 4 + -(-100 * bits // 8) + sum(payloads)


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)), min_size=1, max_size=8
    ),
    codec=st.text("ABZ09_", min_size=4, max_size=4),
    number=st.integers(0, 2**32 - 1),
    payloads=st.lists(st.binary(max_size=40), min_size=8, max_size=8),
)
def test_any_files_make_a_round_trip(
    sizes: Sizes, codec: str, number: int, payloads: list[bytes]
) -> None:
    nothing = np.zeros(0, np.uint8)
    headers = [Header(codec, number, *size) for size in sizes]
    files = [pack(header, nothing, p) for header, p in zip(headers, payloads, strict=False)]
    assert unpack(join(files)) == files


@given(data=st.binary(max_size=120))
def test_noise_is_refused_or_is_a_block(data: bytes) -> None:
    for start in (b"", b"CDB0CAE_" + struct.pack("<I", STREAM)):
        try:
            files = unpack(start + data)
        except ValueError as error:
            assert re.fullmatch(r"damaged block test: [^\n]+; export the set again", str(error))  # noqa: PT017
        else:
            assert join(files) == start + data


SIZES = [[(16, 24)] * 3, [(16, 24)], [(15, 24), (16, 24)]]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_truncation_is_refused(sizes: Sizes) -> None:
    block = join(make(sizes))
    for length in range(len(block)):
        with pytest.raises(ValueError, match="damaged block test"):
            unpack(block[:length])
    with pytest.raises(ValueError, match="damaged block test: its lengths do not add up"):
        unpack(block + b"\0")


@pytest.mark.parametrize("sizes", SIZES)
def test_every_flipped_bit_is_noticed(sizes: Sizes) -> None:
    block = join(make(sizes))
    for bit in range(8 * len(block)):
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            read(bytes(damaged))


@given(data=st.data())
def test_other_damage_is_noticed(data: st.DataObject) -> None:
    block = join(make([(15, 24), (16, 24), (16, 20)]))
    damaged = bytearray(block)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    if damaged != block:
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            read(bytes(damaged))


@pytest.mark.parametrize("bits", [0, 1, 32, 33, 255])
@pytest.mark.parametrize("count", [0, 2, 2**24, 2**32 - 1])
def test_a_hostile_count_allocates_nothing(count: int, bits: int) -> None:
    block = bytearray(join(make([(16, 24)])))
    block[12:16], block[20] = struct.pack("<I", count), bits
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="damaged block"):
        Block(memoryview(bytes(block)), "test")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # 16 MiB in KiB
