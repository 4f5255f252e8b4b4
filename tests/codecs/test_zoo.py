import json
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from cdinfer.codecs import CAE, freeze, load_codec, read_codec, save_codec
from cdinfer.codecs.quantizer import histogram
from cdinfer.codecs.zoo import find_codec, find_stream
from tests.conftest import random_codec

Pictures = list[npt.NDArray[np.uint8]]


@pytest.fixture
def folder(tiny_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny codec at ``runs/codec/version_0/codec``; its grandparents are here."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_codec, Path("runs/codec/version_0/codec")))


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of ``codec.json``; ``None`` removes one."""
    path = folder / "codec.json"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / "codec.json", (then, then))


# Freezing


def test_a_stored_codec_writes_what_the_frozen_one_wrote(
    tmp_path: Path, pictures: Pictures
) -> None:
    frozen = random_codec(1, pictures)
    save_codec(frozen, tmp_path / "codec", {"steps": 3})
    loaded = read_codec(tmp_path / "codec")
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    assert loaded.compress(x) == frozen.compress(x)
    assert torch.equal(loaded.decompress(frozen.compress(x)), frozen.decompress(loaded.compress(x)))
    assert loaded.stream == frozen.stream
    assert json.loads((tmp_path / "codec" / "codec.json").read_text())["card"] == {"steps": 3}


def test_saving_what_was_loaded_changes_no_byte(tiny_codec: Path, tmp_path: Path) -> None:
    save_codec(read_codec(tiny_codec), tmp_path, {"trained": "not at all"})
    for name in ("codec.json", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (tiny_codec / name).read_bytes()


def test_tables_are_counted_with_the_weights_that_are_stored(pictures: Pictures) -> None:
    codec = CAE(0.33, width=0.125)
    with torch.no_grad():
        codec.centers.copy_(torch.tensor([2.0, -1.0001, 0.1, 0.7, -2.0, 1.3]))
    seen: list[CAE] = []

    def count(rounded: CAE) -> torch.Tensor:
        seen.append(rounded)
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        return histogram(rounded.symbols(x), 6)

    frozen = freeze(codec, count)
    assert seen == [frozen]
    centers = codec.centers.detach().half().float()
    assert torch.equal(frozen.centers, centers.sort().values)
    assert not torch.equal(frozen.centers, codec.centers.sort().values)
    for name, weight in codec.g_a.named_parameters():
        assert torch.equal(frozen.g_a.get_parameter(name), weight.half().float())
    assert codec.tables is None


def test_weights_are_stored_in_half_precision(tiny_codec: Path) -> None:
    weights = load_file(tiny_codec / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert "frequencies" not in weights


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


def test_a_missing_codec_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole message is compared)
        load_codec("cae", 0.0983)
    assert str(caught.value) == (
        "no trained cae at 0.0983 bpp: run cdinfer train --task codec --bpp 0.0983, "
        "or give --codec RUN"
    )


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
    with pytest.raises(ValueError, match=r"no codec 'cea': expected a name \(cae\)"):
        load_codec("cea")
    with pytest.raises(ValueError, match=r"no trained codec in runs: expected codec/codec\.json"):
        load_codec("runs")


def test_a_run_that_has_not_ended_is_no_codec(folder: Path) -> None:
    (folder / "codec.json").unlink()
    with pytest.raises(ValueError, match="which a finished cdinfer train --task codec writes"):
        load_codec("runs/codec/version_0")


# Damage: one clear error each


def refused(folder: Path) -> str:
    """Return the one-line error of loading, however the codec is named."""
    with pytest.raises(ValueError, match=r"^damaged .*; copy the (codec )?folder again$") as caught:
        load_codec(str(folder.parent))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_truncated_description_is_refused(folder: Path, length: int) -> None:
    path = folder / "codec.json"
    path.write_bytes(path.read_bytes()[:length])
    refused(folder)
    with pytest.raises(ValueError, match="damaged"):
        find_codec("cae", 0.33)


@pytest.mark.parametrize("text", ["[]", "3", '"cae"', "null", "[" * 100_000, "\xff"])
def test_a_description_of_another_kind_is_refused(folder: Path, text: str) -> None:
    (folder / "codec.json").write_text(text, "latin-1")
    refused(folder)


@pytest.mark.parametrize(
    "field", ["format", "name", "bpp", "width", "levels", "stream", "tables", "sha256"]
)
def test_a_description_without_a_field_is_refused(folder: Path, field: str) -> None:
    edit(folder, **{field: None})
    assert field in refused(folder)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_truncated_weights_are_refused(folder: Path, length: int) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "weights.safetensors is not the file" in refused(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    assert "weights.safetensors" in refused(folder)


def test_weights_of_another_codec_are_refused(folder: Path, pictures: Pictures) -> None:
    save_codec(random_codec(2, pictures), Path("other"), {})
    shutil.copy("other/weights.safetensors", folder)
    assert "weights.safetensors is not the file" in refused(folder)


def sign(folder: Path) -> None:
    """Make ``codec.json`` vouch for whatever the weights' file is now."""
    import hashlib

    blob = (folder / "weights.safetensors").read_bytes()
    edit(folder, sha256=hashlib.sha256(blob).hexdigest())


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_a_pickle_under_the_name_of_weights_is_refused_and_not_run(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Trap()))
    sign(folder)
    refused(folder)
    assert not Path("sprung").exists()


def test_weights_of_another_width_are_refused(folder: Path) -> None:
    edit(folder, width=0.5)
    assert "other layers" in refused(folder)


def test_an_edited_table_is_refused(folder: Path) -> None:
    tables = json.loads((folder / "codec.json").read_text())["tables"]
    tables[0][:2] = [tables[0][0] + 1, tables[0][1] - 1]
    edit(folder, tables=tables)
    assert "stream" in refused(folder)


@pytest.mark.parametrize(
    "tables",
    [
        [[4096]],
        [[4095, 1]] * 16,
        [[-1, 4097]],
        [[70000, 1]],
        [[10**30, 1]],
        [[0.5, 0.5]],
        [[1, 2], [3]],
        "many",
        {},
        [[1] * 4096] * 16,
    ],
)
def test_tables_that_are_none_are_refused(folder: Path, tables: Any) -> None:
    edit(folder, tables=tables)
    refused(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 1e9),
        ("width", 10**30),
        ("width", "wide"),
        ("width", [1]),
        ("levels", 10**9),
        ("levels", 2.5),
        ("levels", "six"),
        ("bpp", 0.4),
        ("bpp", "0.33"),
        ("bpp", [0.33]),
        ("name", "hyperprior"),
        ("name", ["cae"]),
        ("name", {}),
        ("format", 2),
        ("stream", 7),
        ("sha256", None),
    ],
)
def test_hostile_descriptions_are_refused_at_once(folder: Path, field: str, value: Any) -> None:
    edit(folder, **{field: value})
    start = time.process_time()
    refused(folder)
    assert time.process_time() - start < 2


def test_a_huge_description_is_refused_unread(folder: Path) -> None:
    with (folder / "codec.json").open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no space
    assert "larger than" in refused(folder)
