import hashlib
from pathlib import Path

import numpy as np
import pytest

from cdinfer.data.images import read_image
from cdinfer.data.sources import find_source
from tests.data.pictures import jpeg, labels, pixels, sample, write, write_tar


def test_a_folder_is_read_as_before(picture_folder: Path) -> None:
    found = find_source(str(picture_folder))
    assert found.classes == ["a", "b"]
    assert set(pixels(found)) == {"a/0.png", "a/1.png", "b/2.png", "b/3.png"}


# CSV


def test_a_csv_names_pictures_beside_it(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "set" / "x" / f"{i}.jpg", jpeg(i))
    text = 'label,path,split\n"oak, red",x/0.jpg,train\nelm,x/1.jpg,train\n\nelm,./x/2.jpg,val\n'
    csv = write(tmp_path / "set" / "list.csv", f"\ufeff{text}elm,x/3.jpg,test".encode())
    found = find_source(str(csv))
    assert found.classes == ["elm", "oak, red"]
    assert labels(found) == {"x/0.jpg": "oak, red", "x/1.jpg": "elm"}
    assert [i.key for i in found.splits["val"] + found.splits["test"]] == ["x/2.jpg", "x/3.jpg"]
    assert np.array_equal(pixels(found)["x/3.jpg"], read_image(jpeg(3)))


def test_without_splits_a_csv_holds_validation_out(tmp_path: Path) -> None:
    rows = ["path,label"]
    for i in range(30):
        write(tmp_path / f"{i}.jpg", b"")
        rows.append(f"{i}.jpg,{i % 11}")
    found = find_source(str(write(tmp_path / "list.csv", "\n".join(rows).encode())))
    assert found.classes == [str(i) for i in range(11)]  # 10 comes after 9
    assert 0 < len(found.splits["val"]) < 15
    assert len(found.splits["val"]) + len(found.splits["train"]) == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,oak\n", r"starts with 'a\.jpg,oak': expected a header path,label or path,label,s"),
        ("", r"starts with '': expected a header"),
        ("path,label\n", r"list\.csv is empty"),
        ("path,label\na.jpg\n", r"line 2: expected 2 cells, got \['a\.jpg'\]"),
        ("path,label\na.jpg,\n", r"line 2: expected a path and a label"),
        ("path,label,split\na.jpg,oak,trian\n", r"got 'trian'; did you mean 'train'\?"),
        ("path,label,split\na.jpg,oak,test\n", r"has no pictures for training"),
        ("path,label\n../secret.jpg,oak\n", r"names '\.\./secret\.jpg': expected a path inside"),
        ("path,label\n/etc/passwd,oak\n", r"names '/etc/passwd': expected a path inside"),
        ("path,label\nb.jpg,oak\n", r"names 'b\.jpg', which is not in .*: correct the list"),
        ("path,label\na.jpg,oak\na.jpg,elm\n", r"names 'a\.jpg' 2 times: expected each picture"),
        ('path,label\n"a.jpg"x,oak\n', r"is not a CSV file in UTF-8"),
        ("path,label\n" + "x" * 200_000 + ",oak\n", r"is not a CSV file in UTF-8: field larger"),
        ("path,label\n\0,oak\n", r"names|is not a CSV file"),
    ],
)
def test_a_bad_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "secret.jpg", b"")
    write(tmp_path / "set" / "a.jpg", b"")
    csv = write(tmp_path / "set" / "list.csv", text.encode())
    with pytest.raises(ValueError, match=message):
        find_source(str(csv))


# All of them


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("photos", {"download": True}, r"--download fetches data sets of torchvision"),
        ("list.csv", {"splits": "x"}, r"give no --splits with 'list\.csv'"),
        ("list.csv", {}, r"cannot read list\.csv: No such file or directory; check the path"),
        ("a.tar", {"splits": "1"}, r"give no --splits with 'a\.tar'"),
        ("nowhere", {}, r"got no folder 'nowhere'"),
        ("set", {}, r"'set' is a set of shards already: give pictures, or cdinfer shards merge"),
    ],
)
def test_what_cannot_be_read_so_is_refused(
    source: str, options: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set" / "index.json", b"{}")
    with pytest.raises(ValueError, match=message):
        find_source(source, **options)


def test_all_sources_of_the_same_pictures_give_the_same_pixels(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / "set" / "ab"[i % 2] / f"{i}.jpg", jpeg(i))
    rows = "".join(f"{'ab'[i % 2]}/{i}.jpg,{'ab'[i % 2]}\n" for i in range(6))
    write(tmp_path / "set" / "list.csv", f"path,label\n{rows}".encode())
    write_tar(
        tmp_path / "a.tar", [m for i in range(6) for m in sample(i, i % 2, "ab"[i % 2] + "/")]
    )
    found = [find_source(f"{tmp_path}/{name}") for name in ("set", "set/list.csv", "a.tar")]
    hashes = [
        {key.removeprefix("a.tar/"): hashlib.sha256(x.tobytes()).digest() for key, x in p.items()}
        for p in map(pixels, found)
    ]
    assert hashes[0] == hashes[1] == hashes[2]
    splits = [{name: sorted(part) for name, part in f.splits.items()} for f in found]
    assert splits[0] == splits[1]
