import numpy as np
import pytest

from cdinfer.bitstream import BitstreamError, Header, parse
from cdinfer.bitstream.files import read_files, write_files
from tests.bitstream.models import random_model, random_symbols

LETTERS = "CAE_"
ID = 0x12345678
LARGEST = 2**29
MODEL = random_model(0, channels=4)
SYMBOLS = random_symbols(MODEL, (3, 6, 8), calm=True)


def files(height=48, width=60, groups=None, **header) -> list[bytes]:
    """Files of three pictures that share their latents' size."""
    return write_files(SYMBOLS, Header(LETTERS, ID, height, width, **header), MODEL, groups)


def read(data, letters=LETTERS, stream=ID, max_pixels=LARGEST, groups=None):
    return read_files(data, letters, stream, MODEL, 8, max_pixels, groups)


@pytest.mark.parametrize("groups", [None, (4,), (1, 3), (1, 1, 1, 1)])
def test_what_was_written_is_read_exactly(groups) -> None:
    symbols, sizes = read(files(groups=groups))
    np.testing.assert_array_equal(symbols, SYMBOLS)
    assert sizes == [(48, 60)] * 3


def test_a_file_has_the_same_bytes_whatever_its_batch() -> None:
    header = Header(LETTERS, ID, 48, 60)
    for groups in (None, (2, 2)):
        alone = [write_files(one[None], header, MODEL, groups)[0] for one in SYMBOLS]
        assert files(groups=groups) == alone


def test_one_group_costs_a_header_of_22_bytes_and_each_further_9_and_a_state() -> None:
    one, two = files()[0], files(groups=(2, 2))[0]
    assert len(one) - len(parse(one).payload) == 22
    assert len(two) - len(parse(two).payload) == 22 + 4 + 2 * 5
    assert abs(len(parse(two).payload) - len(parse(one).payload) - 3) <= 3


def test_the_first_groups_are_read_alone() -> None:
    data = files(groups=(1, 2, 1))
    for count, channels in ((1, 1), (2, 3), (3, 4)):
        symbols, sizes = read(data, groups=count)
        np.testing.assert_array_equal(symbols, SYMBOLS[:, :channels])
        rest = [sum(map(len, parse(file).payloads[count:])) for file in data]
        cut = [file[: len(file) - size] for file, size in zip(data, rest, strict=True)]
        np.testing.assert_array_equal(read(cut, groups=count)[0], symbols)
        assert sizes == [(48, 60)] * 3


def test_damage_in_later_groups_does_not_reach_the_first() -> None:
    data = bytearray(files(groups=(2, 2))[0])
    data[-1] ^= 1
    np.testing.assert_array_equal(read([bytes(data)], groups=1)[0], SYMBOLS[:1, :2])
    with pytest.raises(BitstreamError, match="damaged"):
        read([bytes(data)])


def test_fields_and_flags_are_kept() -> None:
    data = files(provisional=True, fields=(("EXIF", b"taken by"),))
    np.testing.assert_array_equal(read(data)[0], SYMBOLS)
    assert parse(data[1]).header == Header(
        LETTERS, ID, 48, 60, provisional=True, fields=(("EXIF", b"taken by"),)
    )


@pytest.mark.parametrize("groups", [(), (3,), (2, 3), (0, 4), (5, -1)])
def test_groups_that_are_not_the_channels_are_refused(groups) -> None:
    with pytest.raises(ValueError, match="groups that sum to 4 channels, got"):
        files(groups=groups)


def test_pictures_of_different_sizes_may_share_a_latent_size() -> None:
    symbols, sizes = read([files()[0], files(41, 64)[1]])
    np.testing.assert_array_equal(symbols, SYMBOLS[:2])
    assert sizes == [(48, 60), (41, 64)]


def test_different_latent_sizes_in_a_call_are_refused() -> None:
    small = write_files(SYMBOLS[:, :, :5], Header(LETTERS, ID, 40, 60), MODEL)
    with pytest.raises(ValueError, match="one latent size in a call"):
        read([files()[0], small[0]])


def test_different_groups_in_a_call_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same groups in a call, got \[\(\), \(2, 2\)\]"):
        read([files()[0], files(groups=(2, 2))[0]])


def test_no_files_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="one latent size in a call"):
        read([])


@pytest.mark.parametrize(
    ("letters", "stream", "largest", "message"),
    [
        ("HYPR", ID, LARGEST, "wrong codec"),
        (LETTERS, ID + 1, LARGEST, "wrong stream"),
        (LETTERS, ID, 48 * 60 - 1, "--max-pixels 2880"),
    ],
)
def test_foreign_and_large_files_are_refused(letters, stream, largest, message) -> None:
    with pytest.raises(BitstreamError, match=message):
        read(files(), letters, stream, largest)


@pytest.mark.parametrize("groups", [None, (2, 2)])
def test_an_error_tells_which_file_of_the_batch_it_is_about(groups) -> None:
    data = files(groups=groups)
    damaged = bytearray(data[2])
    damaged[-1] ^= 1
    with pytest.raises(BitstreamError, match="damaged") as caught:
        read([*data[:2], bytes(damaged)])
    assert caught.value.index == 2
