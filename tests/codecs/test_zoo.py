import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from cdinfer.bitstream import ContextModel
from cdinfer.codecs import CAE, freeze, load_codec, read_codec, save_codec, shipped_codecs
from cdinfer.codecs.cae import Design
from cdinfer.codecs.zoo import CODECS, FILES, copy_codec, find_codec, find_stream
from tests.conftest import random_codec

Pictures = list[npt.NDArray[np.uint8]]


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / "codec.json", (then, then))


# Freezing


@pytest.mark.parametrize("design", CODECS)
def test_a_stored_codec_writes_what_the_frozen_one_wrote(
    tmp_path: Path, pictures: Pictures, design: Design
) -> None:
    frozen = random_codec(1, pictures, design)
    save_codec(frozen, tmp_path / "codec", {"steps": 3})
    loaded = read_codec(tmp_path / "codec")
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    assert loaded.compress(x) == frozen.compress(x)
    assert torch.equal(loaded.decompress(frozen.compress(x)), frozen.decompress(loaded.compress(x)))
    assert (loaded.stream, loaded.name) == (frozen.stream, design)
    assert json.loads((tmp_path / "codec" / "codec.json").read_text())["card"] == {"steps": 3}


def test_saving_what_was_loaded_changes_no_byte(tiny_codec: Path, tmp_path: Path) -> None:
    save_codec(read_codec(tiny_codec), tmp_path, {"trained": "not at all"})
    for name in ("codec.json", *FILES):
        assert (tmp_path / name).read_bytes() == (tiny_codec / name).read_bytes()


@pytest.mark.parametrize("design", CODECS)
def test_the_model_is_fitted_with_the_weights_that_are_stored(
    pictures: Pictures, design: Design
) -> None:
    codec = CAE(0.33, 0.125, design)
    seen: list[CAE] = []

    def collect(rounded: CAE) -> list[npt.NDArray[np.int16]]:
        seen.append(rounded)
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        return list(rounded.numbers(x).numpy())

    frozen = freeze(codec, collect)
    assert seen == [frozen]
    assert (frozen.frozen, frozen.bpp, frozen.design) == (True, 0.33, design)
    for name, weight in codec.named_parameters():
        assert torch.equal(frozen.get_parameter(name), weight.half().float())
        assert weight.requires_grad
    assert codec.model is None
    assert not codec.frozen


def test_weights_are_stored_in_half_precision_and_tables_as_the_integers_they_are(
    tiny_codec: Path,
) -> None:
    parts = [load_file(tiny_codec / name) for name in FILES]
    assert {tensor.dtype for part in parts[:2] for tensor in part.values()} == {torch.float16}
    assert all(name.startswith("g_a.") for name in parts[0])
    assert not any(name.startswith("g_a.") for name in parts[1])
    centers = parts[2].pop("centers")
    codec = read_codec(tiny_codec)
    assert codec.model is not None
    assert {*parts[2]} == {*ContextModel.__dataclass_fields__}
    for name, tensor in parts[2].items():
        part = getattr(codec.model, name)
        assert tensor.numpy().dtype == part.dtype
        np.testing.assert_array_equal(tensor.numpy(), part)
    assert torch.equal(codec.centers, centers)


# Shipped codecs, and encoders that share a decoder


def ship(monkeypatch: pytest.MonkeyPatch, pictures: Pictures) -> tuple[Path, Path]:
    """Two shipped codecs that differ in their encoders."""
    shipped = Path("shipped").absolute()
    monkeypatch.setattr("cdinfer.codecs.zoo.SHIPPED", shipped)
    codec = random_codec(3, pictures)
    save_codec(codec, shipped / "cae-0.33", {})
    codec.g_a.body[0].weight.mul_(1.5)
    save_codec(codec, shipped / "cae-9.9", {}, shares="cae-0.33")
    return shipped / "cae-0.33", shipped / "cae-9.9"


def test_encoders_that_share_decoder_and_tables_store_them_once(
    folder: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shares = ship(monkeypatch, pictures)
    assert sorted(file.name for file in shares.iterdir()) == ["codec.json", "encoder.safetensors"]
    one, two = read_codec(whole), read_codec(shares)
    x = torch.from_numpy(pictures[0]).permute(2, 0, 1)[None] / 255
    assert one.stream == two.stream
    assert one.compress(x) != two.compress(x)
    assert torch.equal(one.decompress(two.compress(x)), two.decompress(two.compress(x)))


def test_a_copy_of_a_codec_is_whole(
    folder: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in ship(monkeypatch, pictures):
        copy_codec(source, Path("copies") / source.name / "codec")
        copy = read_codec(Path("copies") / source.name / "codec")
        assert copy.stream == read_codec(source).stream
        weights = read_codec(source).state_dict()
        assert all(torch.equal(w, weights[name]) for name, w in copy.state_dict().items())


def test_a_codec_whose_other_half_is_gone_or_changed_is_refused(
    folder: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shares = ship(monkeypatch, pictures)
    (whole / "tables.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^damaged codec in .*tables\.safetensors"):
        read_codec(shares)
    shutil.copy(folder / "tables.safetensors", whole)
    with pytest.raises(ValueError, match=r"tables\.safetensors is not the file"):
        read_codec(shares)


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
    own, _ = ship(monkeypatch, pictures)
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
