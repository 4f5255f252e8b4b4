import os
import shutil
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cdinfer.codecs import CAE, load_codec, read_codec, save_codec, shipped_codecs
from cdinfer.codecs.zoo import find_codec, find_stream
from tests.conftest import random_codec

Pictures = list[npt.NDArray[np.uint8]]


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / "codec.json", (then, then))


# Shipped codecs


@pytest.mark.usefixtures("nothing_shipped")
def test_shipped_codecs_are_listed_by_name_and_rate(
    tmp_path: Path, tiny_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["cae-0.0983", "cae-0.33", "cae-1.5", "cae-lite-0.33", "cae-lite-11"]
    for name in reversed(names):
        shutil.copytree(tiny_codec, tmp_path / "shipped" / name)
    (tmp_path / "shipped" / "cae-half-written").mkdir()
    assert [path.name for path in shipped_codecs()] == names


def test_a_shipped_codec_comes_before_runs(
    folder: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdinfer.codecs.zoo.SHIPPED", Path("shipped").absolute())
    own = Path("shipped/cae-0.33").absolute()
    save_codec(random_codec(3, pictures), own, {})
    assert find_codec("cae", 0.33) == own
    assert find_stream(read_codec(own).stream).parent == own.parent
    assert find_stream(read_codec(folder).stream) == folder


# Finding


@pytest.mark.parametrize(
    "name", ["runs/codec/version_0", "runs/codec", "runs/codec/version_0/codec", "cae"]
)
def test_a_codec_is_found_by_run_parent_folder_and_name(folder: Path, name: str) -> None:
    codec = load_codec(name, 0.33)
    assert isinstance(codec, CAE)
    assert (codec.name, codec.bpp, codec.width) == ("cae", 0.33, 0.125)
    assert codec.stream == read_codec(folder).stream


def test_a_folder_needs_no_rate(folder: Path) -> None:
    assert load_codec(str(folder.parent)).bpp == 0.33


def test_of_several_runs_the_newest_is_taken(folder: Path, pictures: Pictures) -> None:
    newer = random_codec(2, pictures)
    save_codec(newer, Path("runs/codec/version_1/codec"), {})
    age(folder, 60)
    assert load_codec("runs/codec").stream == newer.stream
    assert load_codec("cae", 0.33).stream == newer.stream
    age(Path("runs/codec/version_1/codec"), 120)
    assert load_codec("runs/codec").stream != newer.stream
    assert load_codec("cae", 0.33).stream != newer.stream


def test_a_stream_is_found_whatever_is_newer_or_damaged(folder: Path, pictures: Pictures) -> None:
    newer = random_codec(2, pictures)
    save_codec(newer, Path("runs/joint/version_0/codec"), {})
    damaged = shutil.copytree(folder, Path("runs/cls/version_0/codec"))
    (damaged / "codec.json").write_text("{")
    age(folder, 60)
    assert find_stream(newer.stream) == Path("runs/joint/version_0/codec")
    assert find_stream(read_codec(folder).stream) == folder
    with pytest.raises(ValueError, match=r"stream id 0000beef.*give the one .* with --codec RUN"):
        find_stream(0xBEEF)


@pytest.mark.usefixtures("nothing_shipped")
def test_a_missing_codec_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole message is compared)
        load_codec("cae", 0.0983)
    assert str(caught.value) == (
        "no trained cae at 0.0983 bpp: run cdinfer train --task codec --bpp 0.0983, "
        "or give --codec RUN"
    )
    with pytest.raises(ValueError, match=r"--task codec --codec cae-lite --bpp 0\.33, or"):
        load_codec("cae-lite")


def test_a_name_stands_for_one_rate_only(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no trained cae at 0\.635 bpp"):
        load_codec("cae", 0.635)


def test_an_unknown_rate_names_the_nearest(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"use --bpp 0\.635"):
        load_codec("cae", 0.6)


def test_a_rate_that_is_not_the_folders_names_the_flag(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nominal rate of 0\.33 bpp, not 0\.635: give --bpp 0\.33"
    ):
        load_codec("runs/codec", 0.635)


def test_what_is_neither_name_nor_folder_is_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no codec 'cea': expected a name \(cae, cae-lite, cae-paper\)"
    ):
        load_codec("cea")
    with pytest.raises(ValueError, match=r"no trained codec in runs: expected codec/codec\.json"):
        load_codec("runs")


def test_a_run_that_has_not_ended_is_no_codec(folder: Path) -> None:
    (folder / "codec.json").unlink()
    with pytest.raises(ValueError, match="which a finished cdinfer train --task codec writes"):
        load_codec("runs/codec/version_0")
