from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from cdinfer.data.folders import PictureDataset
from cdinfer.data.layout import Item
from cdinfer.data.sources import find_source
from tests.data.masked import stripes, write_list, write_mask, write_voc
from tests.data.pictures import jpeg, write


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """VOC 2012 and 2007, tiny."""
    for year in ("2012", "2007"):
        root = tmp_path / "VOCdevkit" / f"VOC{year}"
        write_voc(root, {"train": 3, "val": 2}, classes=(), suffix=".jpg")
        write_list(root, "trainval", "train-2", "val-1", "train-0")
    return tmp_path


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Cityscapes, tiny: pictures of 16 x 24, every id in their masks."""
    for split, towns in {"train": ("ulm", "bonn"), "val": ("rome",), "test": ("bern",)}.items():
        for number, town in enumerate(towns):
            name = f"{town}_000000_000019"
            picture = tmp_path / "leftImg8bit" / split / town / f"{name}_leftImg8bit.png"
            write(picture, jpeg(number))
            ids = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) % 34
            path = tmp_path / "gtFine" / split / town / f"{name}_gtFine_labelIds.png"
            write_mask(path, ids.astype(np.uint8))
    return tmp_path


def test_voc_2012_is_read_by_name(pascal: Path) -> None:
    found = find_source(f"torchvision:VOCSegmentation:{pascal}")
    assert len(found.classes) == len(found.masks.palette) == 21
    assert found.classes[15] == "person"
    assert found.masks.palette[15] == [192, 128, 128]
    assert {split: len(items) for split, items in found.splits.items()} == {
        "train": 3, "val": 2, "test": 0,
    }  # fmt: skip
    theirs = datasets.VOCSegmentation(str(pascal), image_set="val")
    data = PictureDataset(
        found.root, found.splits["val"], None, masks=found.masks, num_classes=len(found.classes)
    )
    for sample, (_, mask) in zip(map(data.__getitem__, range(2)), theirs, strict=True):
        assert np.array_equal(sample["mask"].numpy(), np.array(mask))


def test_a_year_and_a_list_can_be_chosen(pascal: Path) -> None:
    found = find_source(f"torchvision:vocsegmentation,year=2007,image_set=trainval:{pascal}")
    keys = sorted(item.key for items in found.splits.values() for item in items)
    folder = "VOCdevkit/VOC2007/JPEGImages"
    assert keys == [f"{folder}/{name}.jpg" for name in ("train-0", "train-2", "val-1")]


def test_cityscapes_is_read_by_its_nineteen_classes(streets: Path) -> None:
    found = find_source(f"torchvision:Cityscapes:{streets}")
    assert len(found.classes) == len(found.masks.palette) == 19
    assert (found.classes[0], found.classes[18]) == ("road", "bicycle")
    assert found.masks.palette[0] == [128, 64, 128]
    town = "train/bonn/bonn_000000_000019"
    assert found.splits["train"][0] == Item(
        f"leftImg8bit/{town}_leftImg8bit.png", -1, mask=f"gtFine/{town}_gtFine_labelIds.png"
    )
    assert [len(found.splits[split]) for split in ("train", "val", "test")] == [2, 1, 0]
    data = PictureDataset(
        found.root, found.splits["val"], None, masks=found.masks, num_classes=len(found.classes)
    )
    mask = data[0]["mask"].numpy().ravel()
    by_id = {one.id: one.train_id for one in datasets.Cityscapes.classes}
    assert mask[:34].tolist() == [by_id[number] for number in range(34)]
    assert set(mask.tolist()) == {*range(19), 255}


def test_a_mask_that_is_not_there_is_named(pascal: Path, streets: Path) -> None:
    (pascal / "VOCdevkit/VOC2012/SegmentationClass/train-1.png").unlink()
    with pytest.raises(ValueError, match=r"VOCSegmentation names 'VOC.*train-1\.png', which is n"):
        find_source(f"torchvision:VOCSegmentation:{pascal}")
    next(streets.glob("gtFine/val/*/*")).unlink()
    with pytest.raises(ValueError, match=r"Cityscapes names 'gtFine/val/rome/.*', which is not in"):
        find_source(f"torchvision:Cityscapes:{streets}")


def test_masks_outside_of_root_are_refused(pascal: Path) -> None:
    write_mask(pascal.parent / "secret.png", stripes(8, 8))
    write_list(pascal / "VOCdevkit/VOC2012", "train", "../../../../secret")
    with pytest.raises(ValueError, match=r"secret\.jpg': expected a path inside"):
        find_source(f"torchvision:VOCSegmentation:{pascal}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("VOCSegmentation", r"cannot read VOCSegmentation in .*: it is not there; --download"),
        ("VOCSegmentation,year=1999", r"cannot read VOCSegmentation .*'1999'"),
        ("Cityscapes", r"cannot read Cityscapes in .*: Dataset not found or incomplete"),
        ("SBDataset", r"SBDataset's masks are MATLAB files: .* --splits aug$"),
    ],
)
def test_a_set_that_cannot_be_read_is_one_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        find_source(f"torchvision:{source}:{tmp_path}")
    assert "\n" not in str(caught.value)
