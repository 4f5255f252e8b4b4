import hashlib
import struct

import numpy as np
import pytest
import torch

from cdinfer.bitstream import BitstreamError, Header, Tables, build_tables
from cdinfer.codecs import stream

LETTERS = "CAE_"
ID = 0x12345678
LARGEST = 2**29


def symbols_and_tables() -> tuple[stream.Symbols, Tables]:
    """Three planes of ``(2, 6, 8)`` symbols below 4 and tables made for them."""
    symbols = np.random.default_rng(0).binomial(3, 0.3, (3, 2, 6, 8)).astype(np.uint8)
    counts = [np.bincount(symbols[:, c].ravel(), minlength=4) for c in range(2)]
    return symbols, build_tables(np.array(counts))


def files(height: int = 48, width: int = 60) -> tuple[list[bytes], stream.Symbols, Tables]:
    symbols, tables = symbols_and_tables()
    return stream.write(symbols, Header(LETTERS, ID, height, width), tables), symbols, tables


def test_what_was_written_is_read_exactly() -> None:
    data, symbols, tables = files()
    read, sizes = stream.read(data, LETTERS, ID, tables, 8, LARGEST)
    np.testing.assert_array_equal(read, symbols)
    assert sizes == [(48, 60)] * 3


def test_pictures_of_different_sizes_may_share_a_latent_size() -> None:
    data, symbols, tables = files()
    other, _, _ = files(41, 64)
    read, sizes = stream.read([data[0], other[1]], LETTERS, ID, tables, 8, LARGEST)
    np.testing.assert_array_equal(read, symbols[:2])
    assert sizes == [(48, 60), (41, 64)]


def test_different_latent_sizes_in_a_call_are_refused() -> None:
    data, symbols, tables = files()
    small = stream.write(symbols[:, :, :5], Header(LETTERS, ID, 40, 60), tables)
    with pytest.raises(ValueError, match="one latent size in a call"):
        stream.read([data[0], small[0]], LETTERS, ID, tables, 8, LARGEST)


def test_no_files_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="one latent size in a call"):
        stream.read([], LETTERS, ID, symbols_and_tables()[1], 8, LARGEST)


@pytest.mark.parametrize(
    ("letters", "number", "largest", "message"),
    [
        ("HYPR", ID, LARGEST, "wrong codec"),
        (LETTERS, ID + 1, LARGEST, "wrong stream"),
        (LETTERS, ID, 48 * 60 - 1, "--max-pixels 2880"),
    ],
)
def test_foreign_and_large_files_are_refused(
    letters: str, number: int, largest: int, message: str
) -> None:
    data, _, tables = files()
    with pytest.raises(BitstreamError, match=message):
        stream.read(data, letters, number, tables, 8, largest)


def test_an_error_tells_which_file_of_the_batch_it_is_about() -> None:
    data, _, tables = files()
    damaged = bytearray(data[2])
    damaged[-1] ^= 1
    with pytest.raises(BitstreamError, match="damaged") as caught:
        stream.read([*data[:2], bytes(damaged)], LETTERS, ID, tables, 8, LARGEST)
    assert caught.value.index == 2


def test_a_stream_is_identified_by_letters_coder_centers_and_tables() -> None:
    centers = torch.tensor([-1.0, 0.5])
    tables = Tables(np.array([[4000, 96], [1, 4095]]))
    digest = hashlib.sha256()
    for part in (
        b"CAE_",
        b"rans-32-16-12-lanes-1-4",
        struct.pack("<2f", -1.0, 0.5),
        struct.pack("<2I", 2, 2),
        struct.pack("<4H", 4000, 96, 1, 4095),
    ):
        digest.update(struct.pack("<Q", len(part)) + part)
    expected = struct.unpack("<I", digest.digest()[:4])[0]
    assert stream.identity("CAE_", centers, tables) == expected


def test_any_change_of_meaning_is_another_stream() -> None:
    centers, tables = torch.tensor([-1.0, 0.5]), Tables(np.array([[4000, 96], [1, 4095]]))
    ids = {
        stream.identity("CAE_", centers, tables),
        stream.identity("CAF_", centers, tables),
        stream.identity("CAE_", torch.nextafter(centers, torch.zeros(2)), tables),
        stream.identity("CAE_", centers, Tables(np.array([[4000, 96], [2, 4094]]))),
        stream.identity("CAE_", centers, Tables(np.array([[4000, 96]]))),
    }
    assert len(ids) == 5
