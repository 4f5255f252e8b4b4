import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.layout import Item, find_pictures
from cdinfer.data.voc import VOC_CLASSES, voc_palette
from tests.data.masked import CLASSES, stripes, write_list, write_mask, write_voc


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "set", {"train": 3, "val": 2, "test": 1})


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """Pictures called as those of VOC 2012, without names of classes."""
    root = write_voc(tmp_path / "VOC2012", {}, classes=())
    for split, numbers in {"train": (1, 2), "val": (3, 4), "trainaug": (1, 2, 5, 6)}.items():
        write_list(root, split, *(f"2008_00000{number}" for number in numbers))
    for number in range(1, 7):
        (root / "JPEGImages" / f"2008_00000{number}.jpg").touch()
        folder = "SegmentationClass" if number < 5 else "SegmentationClassAug"
        write_mask(root / folder / f"2008_00000{number}.png", stripes(8, 8))
    write_mask(root / "SegmentationClassAug" / "2008_000001.png", stripes(8, 8))
    return root


def names(root: Path, splits: str | None = None) -> dict[str, list[str]]:
    found = find_pictures(root, splits).splits
    return {split: [Path(item.key).stem for item in items] for split, items in found.items()}


def test_pictures_come_with_their_masks(voc: Path) -> None:
    found = find_pictures(voc)
    assert found.classes == list(CLASSES)
    assert found.splits["val"] == [
        Item(f"JPEGImages/val-{i}.png", -1, mask=f"SegmentationClass/val-{i}.png") for i in range(2)
    ]
    assert {split: len(items) for split, items in found.splits.items()} == {
        "train": 3, "val": 2, "test": 1,
    }  # fmt: skip
    assert found.masks is not None
    assert found.masks.palette == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert found.masks.ignore_index == 255


def test_pictures_may_have_any_suffix_and_lie_in_folders(voc: Path) -> None:
    (voc / "JPEGImages" / "train-0.png").rename(voc / "JPEGImages" / "train-0.JPEG")
    for folder, suffix in (("JPEGImages", "v2.webp"), ("SegmentationClass", "v2.png")):
        (voc / folder / "a").mkdir()
        (voc / folder / "a" / f"1.{suffix}").touch()
    write_list(voc, "train", "train-0", "a/1.v2", "train-1")
    keys = [(item.key, item.mask) for item in find_pictures(voc).splits["train"]]
    assert keys == [
        ("JPEGImages/train-0.JPEG", "SegmentationClass/train-0.png"),
        ("JPEGImages/a/1.v2.webp", "SegmentationClass/a/1.v2.png"),
        ("JPEGImages/train-1.png", "SegmentationClass/train-1.png"),
    ]


def test_colours_come_from_the_labels_else_the_first_mask_else_voc(voc: Path) -> None:
    def palette() -> object:
        found = find_pictures(voc).masks
        return found and found.palette

    first = voc / "SegmentationClass" / "train-0.png"
    two = Image.new("P", (64, 48))
    two.putpalette([9, 8, 7, 60, 50, 40])
    two.save(first)
    assert palette() == [[9, 8, 7], [60, 50, 40], [0, 128, 0]]
    write_mask(first, stripes(48, 64), [n for n in range(256) for _ in range(3)])  # greys
    assert palette() == voc_palette(3)
    (voc / "labels.json").write_text(json.dumps({"palette": [[1, 2, 3]] * 3, "ignore_index": 11}))
    assert palette() == [[1, 2, 3]] * 3
    assert find_pictures(voc).masks.ignore_index == 11


def test_labels_may_name_the_classes(voc: Path) -> None:
    (voc / "classes.txt").unlink()
    (voc / "labels.json").write_text(json.dumps({"classes": ["x", "y"], "note": "more"}))
    assert find_pictures(voc).classes == ["x", "y"]


def test_voc_2012_is_known_by_the_names_of_its_pictures(pascal: Path) -> None:
    found = find_pictures(pascal)
    assert len(found.classes) == 21
    assert (found.classes[0], found.classes[-1]) == ("background", "tvmonitor")
    assert tuple(found.classes) == VOC_CLASSES
    assert found.masks.palette[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert found.masks.palette[-1] == [0, 64, 128]
    assert names(pascal)["train"] == ["2008_000001", "2008_000002"]


def test_the_palette_is_that_of_the_devkit() -> None:
    # PASCAL VOC's VOClabelcolormap.m, classes 15 (person) and 255 (void)
    assert voc_palette(256)[15] == [192, 128, 128]
    assert voc_palette(256)[255] == [224, 224, 192]


@pytest.mark.parametrize("name", ["trainaug", "train_aug"])
def test_extra_annotations_are_read_where_voc_has_none(pascal: Path, name: str) -> None:
    lists = pascal / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").rename(lists / f"{name}.txt")
    found = find_pictures(pascal, "aug")
    masks = [item.mask for item in found.splits["train"]]
    assert masks == [
        "SegmentationClass/2008_000001.png",
        "SegmentationClass/2008_000002.png",
        "SegmentationClassAug/2008_000005.png",
        "SegmentationClassAug/2008_000006.png",
    ]
    assert names(pascal, "aug")["val"] == ["2008_000003", "2008_000004"]


def test_all_masks_may_be_among_the_extra_ones(pascal: Path) -> None:
    for file in (pascal / "SegmentationClass").iterdir():
        shutil.copy(file, pascal / "SegmentationClassAug")
    shutil.rmtree(pascal / "SegmentationClass")
    found = find_pictures(pascal, "aug")
    assert found.splits["val"][0].mask == "SegmentationClassAug/2008_000003.png"


def test_a_list_for_testing_without_masks_is_left_out(voc: Path) -> None:
    (voc / "SegmentationClass" / "test-0.png").unlink()
    assert names(voc)["test"] == []
    write_list(voc, "test", "test-0", "test-1")
    (voc / "JPEGImages" / "test-1.png").touch()
    (voc / "SegmentationClass" / "test-1.png").touch()
    with pytest.raises(ValueError, match=r"no mask .*/test-0\.png of 'JPEGImages/test-0\.png'"):
        find_pictures(voc)


def test_without_a_list_for_validation_a_part_is_held_out(voc: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    found = find_pictures(voc).splits
    assert len(found["train"]) + len(found["val"]) == 3
    assert found["val"][0].mask == f"SegmentationClass/{Path(found['val'][0].key).name}"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (("train-0", "gone"), r"train\.txt names 'JPEGImages/gone', which is not in .*: correct"),
        (("train-0", "train-1", "train-0"), r"train\.txt names .*train-0\.png' 2 times"),
        (("train-0", "train-0.png"), r"train\.txt names .*train-0\.png' 2 times"),
        (("train-0", "val-1"), r"train\.txt and .*val\.txt both name 'JPEGImages/val-1\.png'"),
        (("",), r"train\.txt is empty: expected an id on each line$"),
        (("../../secret",), r"names 'JPEGImages/\.\./\.\./secret': expected a path inside"),
        (("/etc/passwd",), r"names '/etc/passwd': expected a path inside"),
        (("a\0b",), r"train\.txt names 'JPEGImages/a.b', which is not in"),
        ((".",), r"train\.txt names 'JPEGImages', which is not in"),
    ],
)
def test_a_bad_list_is_named_with_its_line(voc: Path, train: tuple[str], message: str) -> None:
    (voc.parent / "secret").touch()
    write_list(voc, "train", *train)
    with pytest.raises(ValueError, match=message) as caught:
        find_pictures(voc)
    assert "\n" not in str(caught.value)


def test_a_missing_mask_is_named_with_its_list(voc: Path) -> None:
    (voc / "SegmentationClass" / "val-1.png").unlink()
    message = r"no mask .*SegmentationClass/val-1\.png of 'JPEGImages/val-1\.png', which .*val\.txt"
    with pytest.raises(ValueError, match=message):
        find_pictures(voc)


def test_other_lists_are_named(voc: Path, pascal: Path) -> None:
    with pytest.raises(ValueError, match=r"no .*Segmentation/train_aug\.txt: give no --splits$"):
        find_pictures(voc, "aug")
    write_list(pascal, "trainval", "2008_000001")
    (pascal / "ImageSets" / "Segmentation" / "train.txt").unlink()
    with pytest.raises(ValueError, match=r"no .*Segmentation/train\.txt: give --splits aug$"):
        find_pictures(pascal)


def test_masks_without_lists_ask_for_one(voc: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    with pytest.raises(ValueError, match=r"/train\.txt: write one, an id on each line$"):
        find_pictures(voc)


def test_a_folder_of_such_sets_names_one(voc: Path) -> None:
    with pytest.raises(ValueError, match=rf"give one, as '{re.escape(str(voc))}'$"):
        find_pictures(voc.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky\nroad\nsky", r"classes\.txt names 'sky' 2 times: expected each class once"),
        ("sky\n\nroad", r"classes\.txt has an empty line: expected the name of a class on each"),
        ("", r"classes\.txt has an empty line"),
        ("\n".join(map(str, range(256))), r"classes\.txt names 256 classes: expected at most 255"),
        ("x" * 2**21, r"classes\.txt is larger than 1048576 bytes"),
        (None, r"no .*classes\.txt: write one, the name of a class on each line, 0 first"),
    ],
)
def test_classes_must_be_named_once(voc: Path, text: str | None, message: str) -> None:
    (voc / "classes.txt").write_text(text) if text is not None else (voc / "classes.txt").unlink()
    with pytest.raises(ValueError, match=message):
        find_pictures(voc)


def test_classes_are_text(voc: Path) -> None:
    (voc / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"classes\.txt is not text in UTF-8"):
        find_pictures(voc)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"classes": ["sky", "road"]}, r"names the classes sky, road and .* sky, road, tree: corr"),
        ({"palette": [[1, 2, 3]]}, r"labels\.json has 1 colours for 3 classes: expected one for e"),
        ({"palette": [[1, 2]] * 3}, r"damaged .*labels\.json: expected \{\"palette\""),
        ({"palette": [[1, 2, 256]] * 3}, "damaged"),
        ({"palette": [[1, 2, True]] * 3}, "damaged"),
        ({"palette": 7}, "damaged"),
        ({"ignore_index": -1}, "damaged"),
        ({"ignore_index": "255"}, "damaged"),
        ({"classes": "sky"}, "damaged"),
        ([], "damaged"),
        (None, "damaged"),
    ],
)
def test_labels_at_odds_with_the_classes_are_named(voc: Path, labels: object, message: str) -> None:
    (voc / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(ValueError, match=message) as caught:
        find_pictures(voc)
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_json_are_named(voc: Path) -> None:
    for text in ("{", "[" * 100_000, '{"palette": [NaN]}'):
        (voc / "labels.json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged .*labels\.json"):
            find_pictures(voc)


def test_a_damaged_first_mask_is_named(voc: Path) -> None:
    (voc / "SegmentationClass" / "train-0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"train-0\.png: cannot be read"):
        find_pictures(voc)


def test_the_helpers_masks_are_what_they_say() -> None:
    assert np.unique(stripes(48, 64)).tolist() == [0, 1, 2, 255]
