import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from cdinfer.bitstream import ContextModel
from cdinfer.codecs import CAE, freeze, read_codec, save_codec
from cdinfer.codecs.cae import Design
from cdinfer.codecs.stored import CODECS, FILES, copy_codec
from tests.conftest import random_codec

Pictures = list[npt.NDArray[np.uint8]]


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


# Encoders that share a decoder


def save_two(root: Path, pictures: Pictures) -> tuple[Path, Path]:
    """Two codecs below ``root`` that differ in their encoders, named as shipped ones are."""
    codec = random_codec(3, pictures)
    save_codec(codec, root / "cae-0.33", {})
    codec.g_a.body[0].weight.mul_(1.5)
    save_codec(codec, root / "cae-9.9", {}, shares="cae-0.33")
    return root / "cae-0.33", root / "cae-9.9"


def test_encoders_that_share_decoder_and_tables_store_them_once(
    tmp_path: Path, pictures: Pictures
) -> None:
    whole, shares = save_two(tmp_path, pictures)
    assert sorted(file.name for file in shares.iterdir()) == ["codec.json", "encoder.safetensors"]
    one, two = read_codec(whole), read_codec(shares)
    x = torch.from_numpy(pictures[0]).permute(2, 0, 1)[None] / 255
    assert one.stream == two.stream
    assert one.compress(x) != two.compress(x)
    assert torch.equal(one.decompress(two.compress(x)), two.decompress(two.compress(x)))


def test_a_copy_of_a_codec_is_whole(tmp_path: Path, pictures: Pictures) -> None:
    for source in save_two(tmp_path, pictures):
        copy_codec(source, tmp_path / "copies" / source.name / "codec")
        copy = read_codec(tmp_path / "copies" / source.name / "codec")
        assert copy.stream == read_codec(source).stream
        weights = read_codec(source).state_dict()
        assert all(torch.equal(w, weights[name]) for name, w in copy.state_dict().items())


def test_a_codec_whose_other_half_is_gone_or_changed_is_refused(
    tiny_codec: Path, tmp_path: Path, pictures: Pictures
) -> None:
    whole, shares = save_two(tmp_path, pictures)
    (whole / "tables.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^damaged codec in .*tables\.safetensors"):
        read_codec(shares)
    shutil.copy(tiny_codec / "tables.safetensors", whole)
    with pytest.raises(ValueError, match=r"tables\.safetensors is not the file"):
        read_codec(shares)
