"""Sets with masks that are looked through, change and grow."""

import json
from pathlib import Path

import pytest

from cdinfer.data.edit import delete, relabel
from cdinfer.data.export import Plan, export
from cdinfer.data.index import read_index
from cdinfer.data.layout import ImageSet, find_pictures
from cdinfer.data.masks import Masks
from cdinfer.data.merge import append, merge
from cdinfer.data.reader import Reader
from cdinfer.data.verify import Report, verify
from tests.data.conftest import MASKED_SIZES
from tests.data.pictures import paint_masks
from tests.data.test_edit import assert_whole, digests
from tests.data.test_masked_sets import spoil

PLAN = Plan(block=3, per_shard=7)

Contents = dict[str, tuple[bytes, bytes]]


def contents(root: Path) -> Contents:
    """Return bitstream and mask of every key of a set."""
    index, found = read_index(root), Contents()
    for split in index.splits:
        reader = Reader(root, index, split)
        for number in range(len(reader.entries)):
            for i, (label, key) in enumerate(reader.targets(number)):
                assert label == -1
                found[key] = reader.block(number)[i], bytes(reader.masks(number)[i])
    return found


@pytest.fixture
def more(tmp_path: Path) -> ImageSet:
    """Five more pictures."""
    return paint_masks(tmp_path / "more", {"train": 4, "val": 1}, MASKED_SIZES, 30)


# Looked through


def test_a_whole_set_with_masks_has_no_faults(masked: Path) -> None:
    report = verify(masked)
    assert (report.samples, report.faults, report.leftovers) == (21, [], [])
    assert isinstance(report, Report)


def test_every_damaged_mask_is_named_by_shard_block_and_key(masked_copy: Path) -> None:
    keys = [spoil(masked_copy, "train", sample)[1] for sample in (2, 9)]
    report = verify(masked_copy)
    masks = [fault for fault in report.faults if fault.fault.startswith("its mask is damaged")]
    assert [fault.key for fault in masks] == keys
    assert [fault.shard for fault in masks] == ["train-00000", "train-00001"]
    assert all(fault.block is not None for fault in masks)
    sums = [fault.fault for fault in report.faults if fault not in masks]
    assert sums == [
        f"train-0000{n}.targets.tar: its sha256 is not that of the index" for n in (0, 1)
    ]


def test_lengths_of_masks_that_are_damaged_are_one_fault(masked_copy: Path) -> None:
    spoil(masked_copy, "val", 0, at=-4 * 3)
    faults = [fault for fault in verify(masked_copy).faults if fault.block is not None]
    (fault,) = faults
    assert (fault.shard, fault.key) == ("val-00000", None)
    assert "the lengths of its masks do not add up" in fault.fault


def test_bytes_between_masks_belong_to_nobody(masked_copy: Path) -> None:
    path = masked_copy / "index.json"
    raw = json.loads(path.read_text())
    raw["splits"]["train"][0]["masks"][1] = raw["splits"]["train"][0]["masks"][0]
    path.write_text(json.dumps(raw))
    faults = [fault.fault for fault in verify(masked_copy).faults]
    assert "train-00000.targets.tar: has bytes that belong to no block" in faults


# Smaller, and other labels


def test_deleted_pictures_leave_no_mask(masked_copy: Path) -> None:
    before, files = contents(masked_copy), digests(masked_copy)
    keys = sorted(before)[3:12:4]
    payloads = [before[key][1][41:-16] for key in keys]
    assert delete(masked_copy, keys) == 3
    assert contents(masked_copy) == {key: before[key] for key in before if key not in keys}
    everything = b"".join(path.read_bytes() for path in masked_copy.glob("*.tar"))
    left = {mask[41:-16] for _, mask in contents(masked_copy).values()}
    assert not any(payload in everything for payload in payloads if payload not in left)
    assert len(digests(masked_copy).items() & files.items()) >= 2
    assert verify(masked_copy, keys).faults == []
    assert_whole(masked_copy)


def test_a_damaged_block_of_masks_cannot_be_rewritten(masked_copy: Path) -> None:
    _, key = spoil(masked_copy, "val", 0, at=-4 * 3)
    files = digests(masked_copy)
    with pytest.raises(
        ValueError, match=r"damaged .*val-00000\.targets\.tar, block 0: the lengths"
    ):
        delete(masked_copy, [key])
    assert digests(masked_copy) == files


def test_masks_cannot_be_relabelled(masked_copy: Path) -> None:
    files = digests(masked_copy)
    with pytest.raises(
        ValueError, match=r"has masks, and its classes are those of pixels: correct"
    ):
        relabel(masked_copy, dict.fromkeys(contents(masked_copy), "square 1"))
    assert digests(masked_copy) == files


# Larger


def test_pictures_come_with_their_masks(
    masked_copy: Path, more: ImageSet, tiny_codec: Path, tmp_path: Path
) -> None:
    before = contents(masked_copy)
    append(masked_copy, more)
    export(more, tmp_path / "alone", tiny_codec, PLAN)
    assert contents(masked_copy) == before | contents(tmp_path / "alone")
    assert_whole(masked_copy)


def test_appended_classes_of_masks_only_go_on(masked_copy: Path, more: ImageSet) -> None:
    assert more.masks is not None
    palette = [list(colour) for colour in more.masks.palette]
    longer = more._replace(classes=[*more.classes, "new"], masks=Masks([*palette, [1, 2, 3]]))
    other = [*more.classes[:7], "else", *more.classes[8:]]
    files = digests(masked_copy)
    for pictures, message in (
        (longer, r"no class 'new' in .*; --new-classes adds what is missing"),
        (
            more._replace(classes=other),
            r"class 7 is 'square 7' in .* and 'else' in .*more': masks ",
        ),
        (
            more._replace(masks=more.masks._replace(ignore_index=0)),
            r"without a class are 255 in .*",
        ),
        (
            more._replace(masks=more.masks._replace(palette=palette[::-1])),
            r"has the colour \[0, 0,",
        ),
        (
            more._replace(masks=None),
            r"masked' has masks and '.*more' has labels: expected the same",
        ),
        (more._replace(masks=None, classes=[]), r"expected both labelled, or neither"),
    ):
        with pytest.raises(ValueError, match=message):
            append(masked_copy, pictures)
        assert digests(masked_copy) == files
    append(masked_copy, longer, new_classes=True)
    index = read_index(masked_copy)
    assert index.classes[99:] == ["square 99", "new"]
    assert index.masks == Masks([*palette, [1, 2, 3]])
    assert_whole(masked_copy)


@pytest.mark.parametrize("apart", [False, True])
def test_sets_with_masks_merge(
    masked_copy: Path, more: ImageSet, tiny_codec: Path, tmp_path: Path, apart: bool
) -> None:
    assert more.masks is not None
    fewer = more._replace(
        classes=more.classes[:90], masks=more.masks._replace(palette=more.masks.palette[:90])
    )
    export(fewer, tmp_path / "two", tiny_codec, PLAN)
    one, two = contents(masked_copy), contents(tmp_path / "two")
    target = tmp_path / "united" if apart else None
    assert merge(masked_copy, [tmp_path / "two"], target) == 5
    united = target or masked_copy
    assert contents(united) == one | two
    assert len(read_index(united).classes) == 100
    assert_whole(united)
    if apart:
        assert merge(tmp_path / "two", [masked_copy]) == 21
        assert read_index(tmp_path / "two").masks == read_index(united).masks
        assert contents(tmp_path / "two") == one | two


def test_sets_whose_classes_do_not_fit_are_not_merged(
    masked_copy: Path, more: ImageSet, tiny_codec: Path, labelled: Path, tmp_path: Path
) -> None:
    names = [*more.classes]
    names[3:5] = names[4:2:-1]
    export(more._replace(classes=names), tmp_path / "two", tiny_codec, PLAN)
    export(find_pictures(labelled), tmp_path / "three", tiny_codec, PLAN)
    files = digests(masked_copy)
    for other, message in (
        ("two", r"class 3 is 'square 3' in .* and 'square 4' in .*two': masks are not renumbered"),
        ("three", r"masked' has masks and '.*three' has labels: expected the same of both"),
    ):
        with pytest.raises(ValueError, match=message):
            merge(masked_copy, [tmp_path / other])
        assert digests(masked_copy) == files
