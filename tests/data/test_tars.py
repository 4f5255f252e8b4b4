import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.images import read_image
from cdinfer.data.sources import find_source
from tests.conftest import draw
from tests.data.pictures import Member, jpeg, labels, pixels, sample, write_tar


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_webdataset_are_read_where_they_lie(tmp_path: Path, format: int) -> None:
    long = f"{'d' * 90}/{'e' * 90}/"
    png = (tmp_path / "picture.png").as_posix()
    Image.fromarray(draw(8, 8, 9)).save(png)
    third = [("2.x.json", b"{}"), ("2.json", b'{"label": 2}'), ("2.PNG", Path(png).read_bytes())]
    write_tar(tmp_path / "set-train-0.tar", sample(0, 1) + third, format)
    write_tar(tmp_path / "set-train-1.tar", sample(3, " 0\n", long), format)
    write_tar(tmp_path / "set-val-0.tar", sample(4), format)
    for pattern in ("set-{train-{0..1},val-0}.tar", "set-*.tar", "set-{train,val}-*.tar"):
        found = find_source(f"{tmp_path}/{pattern}")
        assert labels(found) == {
            "set-train-0.tar/0.jpg": "1",
            "set-train-0.tar/2.PNG": "2",
            f"set-train-1.tar/{long}3.jpg": "0",
        }
        assert labels(found, "val") == {"set-val-0.tar/4.jpg": "0"}
    seen = pixels(found)
    assert np.array_equal(seen[f"set-train-1.tar/{long}3.jpg"], read_image(jpeg(3)))
    assert np.array_equal(seen["set-train-0.tar/2.PNG"], draw(8, 8, 9))


def test_classes_of_tars_may_be_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample(0, 1) + sample(1, 0) + [("2.txt", b"no picture")])
    (tmp_path / "classes.txt").write_text("oak\nelm\nfir\n")
    found = find_source(str(tar))
    assert found.classes == ["oak", "elm", "fir"]
    assert labels(found) | labels(found, "val") == {"a.tar/0.jpg": "elm", "a.tar/1.jpg": "oak"}
    (tmp_path / "classes.txt").write_text("oak\n")
    with pytest.raises(ValueError, match=r"classes\.txt names 1 classes: expected 2 different"):
        find_source(str(tar))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.jpg", b"x")], r"no class of '0': expected 0\.cls, or \"label\" in 0\.json"),
        ([("0.jpg", b"x"), ("0.json", b'{"text": 1}')], r"no class of '0'"),
        (sample(0, "oak"), r"0\.cls holds b'oak': expected a class from 0 to 99999"),
        (sample(0, -1), r"0\.cls holds b'-1'"),
        (sample(0, 10**9), r"0\.cls holds b'1000000000'"),
        (sample(0, "9" * 5000), r"0\.cls holds b'9999"),
        (sample(0, "[" * 50_000), r"0\.cls holds"),
        ([*sample(0), ("0.png", b"")], r"'0' has 2 pictures"),
        (sample(0) + sample(1) + sample(0), r"has '0' in several places: expected it once"),
        (sample(0, folder="../"), r"holds '\.\./0\.jpg': expected names that stay inside"),
        (sample(0, folder="/"), r"holds '/0\.jpg': expected names that stay inside"),
    ],
)
def test_a_bad_sample_of_a_tar_is_named(
    tmp_path: Path, members: list[Member], message: str
) -> None:
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        find_source(str(tar))


def cut(data: bytes) -> bytes:
    return data[:900]


def cut_inside_a_header(data: bytes) -> bytes:
    return data[: data.index(b"1.cls") + 100]


def wipe_a_header(data: bytes) -> bytes:
    place = data.index(b"1.jpg")
    return data[:place] + b"\xff" * 512 + data[place + 512 :]


def claim_a_size(data: bytes, size: bytes = b"77777777777", name: bytes = b"1.jpg") -> bytes:
    """Give a member a size, with a checksum that agrees."""
    place = data.index(name)
    header = bytearray(data[place : place + 512])
    header[124 : 124 + len(size)] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:place] + bytes(header) + data[place + 512 :]


def claim_less_than_nothing(data: bytes) -> bytes:
    return claim_a_size(data, b"\xff" * 9 + b"\xfe\x00\x00")


def claim_a_long_name(data: bytes) -> bytes:
    place = data.index(b"1.jpg")
    data = data[: place + 156] + b"L" + data[place + 157 :]
    return claim_a_size(data, b"00100000000")  # 16 MiB


def append_another(data: bytes) -> bytes:
    return data + data


def compress(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)


@pytest.mark.parametrize(
    "damage",
    [cut, cut_inside_a_header, wipe_a_header, claim_a_size, claim_less_than_nothing,
     claim_a_long_name, append_another, compress, lambda data: b"", lambda data: b"no tar" * 500],
)  # fmt: skip
def test_a_damaged_tar_is_one_line_and_never_a_shorter_set(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    tar = write_tar(tmp_path / "a.tar", sample(0) + sample(1) + sample(2))
    tar.write_bytes(damage(tar.read_bytes()))
    with pytest.raises(ValueError, match=r"^damaged [^\n]*a\.tar: [^\n]*; expected a tar that is"):
        find_source(str(tar))


def test_a_tar_may_end_with_its_last_member(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample(0) + sample(1))
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(b"1.cls") + 1024])
    assert sum(map(len, find_source(str(tar)).splits.values())) == 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none.tar", r"no tar '.*none\.tar': check the path"),
        ("n*.tar", r"no tar '.*n\*\.tar': check the path"),
        ("{a,b}.tar", r"no tar '.*b\.tar': check the path"),
        ("{a.tar", r"Unbalanced braces.*; expected one like train-\{000\.\.146\}\.tar"),
        ("{a,a}.tar", r"expected different tars of one folder"),
        ("{a,x-test}.tar", r"a\.tar' does not say which split it is, as others do: rename it"),
        ("x-test.tar", r"no tars for training in"),
    ],
)
def test_a_pattern_that_does_not_fit_is_named(tmp_path: Path, pattern: str, message: str) -> None:
    for number, name in enumerate(("a", "x-test")):
        write_tar(tmp_path / f"{name}.tar", sample(number))
    with pytest.raises(ValueError, match=message):
        find_source(f"{tmp_path}/{pattern}")
