import itertools
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.images import read_image
from cdinfer.data.layout import find_pictures
from cdinfer.data.masks import read_mask, read_palette
from cdinfer.data.mosaics import (
    COUNTS,
    NAME,
    PALETTE,
    SIDE,
    SIZE,
    find_regions,
    mosaic_set,
    plan_mosaics,
)
from cdinfer.data.sample import SAMPLE_CLASSES, SOURCES, cut, plan, read_photographs
from tests.data.test_sample import apart, digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mosaic_set(tmp_path_factory.mktemp("cache"))


def test_the_mosaics_are_a_set_in_vocs_layout(folder: Path) -> None:
    found = find_pictures(folder)
    assert found.classes == list(SAMPLE_CLASSES)
    assert {split: len(items) for split, items in found.splits.items()} == COUNTS
    assert found.masks.palette == [list(colour) for colour in PALETTE]
    assert found.masks.ignore_index == 255
    seen = Counter[int]()
    for item in itertools.chain(*found.splits.values()):
        assert read_image(folder / item.key).shape == (*SIZE, 3)
        mask = read_mask(folder / item.mask, found.masks, 7, SIZE)
        seen.update(mask.ravel().tolist())
    total = seen.total()
    assert all(0.08 < seen[label] / total < 0.2 for label in range(7))


def test_masks_can_be_looked_at(folder: Path) -> None:
    path = folder / "SegmentationClass" / "train-000.png"
    assert read_palette(path)[:7] == [list(colour) for colour in PALETTE]


def test_every_class_states_its_source_and_licence(folder: Path) -> None:
    text = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    for label, source in SOURCES.items():
        assert f"{label} ({source.picture}): {source.licence}" in text


def test_masks_are_exact(folder: Path) -> None:
    photographs = read_photographs()
    for mosaic in plan_mosaics()[::100]:
        picture = read_image(folder / "JPEGImages" / f"{mosaic.name}.png")[..., 0]
        mask = np.array(Image.open(folder / "SegmentationClass" / f"{mosaic.name}.png"))
        regions = find_regions(mosaic.sites)
        for region, crop in enumerate(mosaic.crops):
            rows, columns = np.nonzero(regions == region)
            assert (mask[rows, columns] == SAMPLE_CLASSES.index(crop.label)).all()
            patch = cut(photographs, crop, SIDE)[rows - rows.min(), columns - columns.min()]
            assert (picture[rows, columns] == patch).all()


def test_a_pixel_belongs_to_the_nearest_site() -> None:
    for mosaic in plan_mosaics()[::60]:
        regions = find_regions(mosaic.sites)
        ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
        distances = [np.hypot(ys - y, xs - x) for y, x in mosaic.sites]
        nearest = np.take_along_axis(np.stack(distances), regions[None].astype(int), 0)[0]
        np.testing.assert_allclose(nearest, np.min(distances, 0))
        assert len(np.unique(regions)) == len(mosaic.sites) == 6


def test_splits_share_no_pixel_with_each_other_or_the_other_sample_set() -> None:
    crops = [crop for mosaic in plan_mosaics() for crop in mosaic.crops] + plan()
    for label in SAMPLE_CLASSES:
        boxes = {
            split: sorted({c.box for c in crops if (c.split, c.label) == (split, label)})
            for split in COUNTS
        }
        for one, other in itertools.combinations(COUNTS, 2):
            a, b = np.array(boxes[one])[:, None], np.array(boxes[other])[None]
            assert apart(a, b).all()


def test_a_changed_plan_needs_a_new_name() -> None:
    # If this fails on purpose, raise the number in NAME: caches hold the old mosaics.
    assert (NAME, zlib.crc32(repr(plan_mosaics()).encode())) == ("sample-seg-2", 2012246111)


def test_two_makings_are_the_same_bytes_and_take_seconds(folder: Path, tmp_path: Path) -> None:
    start = time.perf_counter()
    again = mosaic_set(tmp_path)
    assert time.perf_counter() - start < 15
    assert digest(again) == digest(folder)


def test_brightness_does_not_give_the_class_away(folder: Path) -> None:
    found = find_pictures(folder)

    def pixels(split: str) -> tuple[np.ndarray, np.ndarray]:
        items = found.splits[split]
        greys = [read_image(folder / item.key)[..., 0] for item in items]
        masks = [read_mask(folder / item.mask, found.masks, 7, SIZE) for item in items]
        return np.concatenate(greys, None), np.concatenate(masks, None)

    (grey, truth), (test, wanted) = pixels("train"), pixels("test")
    counts = np.zeros((256, 7), int)
    np.add.at(counts, (grey, truth), 1)
    guess = counts.argmax(1)[test]
    iou = [
        ((guess == k) & (wanted == k)).sum() / ((guess == k) | (wanted == k)).sum()
        for k in range(7)
    ]
    assert np.mean(iou) < 0.15
