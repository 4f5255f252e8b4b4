"""Real image sets, where ``CDINFER_TEST_DATA`` names a folder that holds them."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from cdinfer.codecs import load_codec
from cdinfer.data.export import Plan, export
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.layout import find_pictures
from cdinfer.data.shards import ShardDataset

DATA = Path(os.environ.get("CDINFER_TEST_DATA", "no such folder"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="CDINFER_TEST_DATA is not set")


@pytest.mark.parametrize(
    ("name", "splits", "classes", "train", "test"),
    [
        ("rsscn7", None, 7, 1400, 1400),
        ("rsscn7", "blocked", 7, 1400, 1400),
        ("flowers", None, 5, 200, 100),
        ("photos", None, 0, 439, 17),
        ("kodak", None, 0, 24, 0),
    ],
)
def test_layouts_hold_the_published_counts(name, splits, classes, train, test):
    pictures = find_pictures(DATA / name, splits)
    assert len(pictures.classes) == classes
    assert len(pictures.splits["train"]) + len(pictures.splits["val"]) == train
    assert len(pictures.splits["test"]) == test
    keys = [item.key for items in pictures.splits.values() for item in items]
    assert len(set(keys)) == len(keys)


def test_both_rsscn7_splits_are_balanced():
    for splits in (None, "blocked"):
        items = find_pictures(DATA / "rsscn7", splits).splits["test"]
        assert set(Counter(item.label for item in items).values()) == {200}


def test_kodak_pictures_survive_the_bitstream(tiny_codec):
    codec = load_codec(str(tiny_codec))
    for path in sorted((DATA / "kodak").glob("*.png"))[:4]:
        x = to_tensor(read_image(path))[None]
        assert x.shape[-2:] in ((512, 768), (768, 512))
        (file,) = codec.compress(x)
        assert torch.equal(codec.unpack([file])["y"], codec.symbols(x))
        assert codec.decompress([file]).shape == x.shape


@pytest.mark.slow
def test_flowers_become_shards_and_come_back(tiny_codec, tmp_path):
    pictures = find_pictures(DATA / "flowers")
    index = export(pictures, tmp_path / "shards", tiny_codec, Plan())
    assert sum(shard["count"] for split in index["splits"].values() for shard in split) == 300
    dataset = ShardDataset(tmp_path / "shards", "test", None)
    codec = load_codec(str(tiny_codec))
    batch = dataset[3]
    x = to_tensor(read_image(DATA / "flowers" / dataset.keys()[3]))[None]
    assert torch.equal(batch["planes"]["y"], codec.symbols(x))
    assert batch["label"].item() == sorted(pictures.classes).index(dataset.keys()[3].split("/")[1])


@pytest.mark.slow
def test_a_picture_of_44_megapixels_goes_through(tiny_codec):
    codec = load_codec(str(tiny_codec))
    x = to_tensor(read_image(DATA / "highres" / "tarantula_nebula.jpg"))[None]
    assert x.shape[-2:] == (4968, 8832)
    (file,) = codec.compress(x)
    assert codec.unpack([file])["y"].shape == (1, 16, 621, 1104)  # the checksum was verified
