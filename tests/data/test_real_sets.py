"""Real image sets, where ``CDINFER_TEST_DATA`` names a folder that holds them."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cdinfer.codecs import load_codec
from cdinfer.data.export import Plan, export
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.layout import find_pictures
from cdinfer.data.masks import read_mask
from cdinfer.data.module import DataModule
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
        ("camvid", None, 11, 468, 62),
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


def test_camvid_has_a_mask_for_every_picture():
    camvid = find_pictures(DATA / "camvid")
    assert [len(camvid.splits[split]) for split in ("train", "val", "test")] == [367, 101, 62]
    assert (camvid.classes[0], camvid.classes[10]) == ("Sky", "Bicyclist")
    assert camvid.masks.ignore_index == 255
    assert (camvid.masks.palette[0], camvid.masks.palette[10]) == ([128] * 3, [0, 128, 192])
    counts = Counter()
    for item in camvid.splits["val"]:
        mask = read_mask(DATA / "camvid" / item.mask, camvid.masks, 11, (360, 480))
        counts.update(dict(zip(*np.unique(mask, return_counts=True), strict=True)))
    assert set(counts) == {*range(11), 255}
    assert counts[255] / counts.total() == pytest.approx(0.017, abs=0.0005)  # as its README says


def test_camvid_pictures_are_cropped_with_their_masks():
    data = DataModule(str(DATA / "camvid"), batch_size=4, crop=144, whole=True, scale=(0.5, 1.5))
    assert next(iter(data.train_dataloader()))["mask"].shape == (4, 144, 144)
    batch = next(iter(data.val_dataloader()))
    assert batch["mask"].shape == batch["image"][:, 0].shape == (1, 360, 480)


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
