"""The embedded sample set for segmentation: mosaics of seven materials, with exact masks.

    crops of ``sample.py``'s materials --> regions of 6 random sites --> 128 x 96 pixels and a mask

A pixel belongs to the nearest of six sites, one in each field of a 3 x 2 grid, and shows that
site's material. Materials are drawn one by one: neighbours may be alike. As in ``sample.py``, no
pixel of a photograph is shared by two splits, and neither colour nor brightness gives the class
away. The folder is in VOC's layout (see ``voc.py``), 400 + 40 + 40 pictures (train, val, test).
"""

import random
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdinfer.data.masks import Mask, Masks, colour_mask
from cdinfer.data.sample import (
    SAMPLE_CLASSES,
    SOURCES,
    Crop,
    between,
    cells_of,
    cut,
    draw_crop,
    make_once,
    read_photographs,
    write_licence,
)
from cdinfer.data.voc import MASKS, PICTURES, describe

#: Folder of the set inside the cache. Other mosaics need another name.
NAME = "sample-seg-2"

#: Split -> pictures.
COUNTS = {"train": 400, "val": 40, "test": 40}

#: Height and width of a picture in pixels, and rows and columns of the grid of sites.
SIZE, GRID = (96, 128), (2, 3)

#: Side of a crop in pixels: no region is larger. That of ``sample.py``, and so the same grain.
SIDE = 64

#: Smallest and largest place of a site in its field, as a share of the field's side.
PLACE = (0.1, 0.9)

#: Colours of the classes, for people.
PALETTE = (
    (178, 58, 46), (111, 78, 55), (240, 180, 41), (64, 78, 160), (76, 160, 70), (140, 140, 140),
    (214, 120, 170),
)  # fmt: skip


class Mosaic(NamedTuple):
    """One picture of the set.

    Attributes:
        name: of its files.
        sites: row and column of each site.
        crops: what each region shows.
    """

    name: str
    sites: list[tuple[int, int]]
    crops: list[Crop]


def mosaic_set(root: Path | None = None) -> Path:
    """Return the folder of the mosaics, made on the first call.

    Args:
        root: cache folder, as :func:`make_once` takes it.

    Raises:
        ValueError: if the cache cannot be written or scikit-image lacks its photographs.
    """
    return make_once(NAME, _write, root)


def plan_mosaics() -> list[Mosaic]:
    """Return every mosaic of the set, the same on every machine (see ``sample.plan``)."""
    mosaics = []
    for split, count in COUNTS.items():
        rng = random.Random(f"{NAME} {split}")
        cells = {label: cells_of(source, split) for label, source in SOURCES.items()}
        for number in range(count):
            sites = _draw_sites(rng)
            crops = []
            for region in range(len(sites)):
                label = SAMPLE_CLASSES[int(len(SAMPLE_CLASSES) * rng.random())]
                cell = cells[label][int(len(cells[label]) * rng.random())]
                crops.append(draw_crop(split, label, region, cell, rng))
            mosaics.append(Mosaic(f"{split}-{number:03}", sites, crops))
    return mosaics


def find_regions(sites: list[tuple[int, int]]) -> Mask:
    """Return the number of the nearest site for every pixel, the first of those equally near.

    Example:
        >>> find_regions([(0, 0), (0, 4)])[0, :5].tolist()
        [0, 0, 0, 1, 1]
    """
    rows, columns = np.arange(SIZE[0], dtype=np.int32)[:, None], np.arange(SIZE[1], dtype=np.int32)
    count = len(sites)
    ranks = [
        ((rows - y) ** 2 + (columns - x) ** 2) * count + number
        for number, (y, x) in enumerate(sites)
    ]
    nearest: Mask = (np.minimum.reduce(ranks) % count).astype(np.uint8)
    return nearest


def _draw_sites(rng: random.Random) -> list[tuple[int, int]]:
    """Return a site in each field of the grid, such that every region fits into a crop."""
    height, width = (side // count for side, count in zip(SIZE, GRID, strict=True))
    while True:
        sites = [
            (int(height * (row + between(PLACE, rng.random()))),
             int(width * (column + between(PLACE, rng.random()))))
            for row, column in product(*map(range, GRID))
        ]  # fmt: skip
        regions = find_regions(sites)
        if all(_fits(regions == number) for number in range(len(sites))):
            return sites


def _fits(region: NDArray[np.bool_]) -> bool:
    """Tell whether a crop covers a region."""
    places = [np.flatnonzero(region.any(axis)) for axis in (0, 1)]
    return all(place[-1] - place[0] < SIDE for place in places)


def _write(folder: Path) -> None:
    """Lay every mosaic of the plan into ``folder``."""
    photographs = read_photographs()
    for name in (PICTURES, MASKS):
        (folder / name).mkdir(parents=True)
    mosaics = plan_mosaics()
    for mosaic in mosaics:
        regions = find_regions(mosaic.sites)
        picture, mask = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
        for region, crop in enumerate(mosaic.crops):
            inside = regions == region
            rows, columns = np.nonzero(inside)
            patch = cut(photographs, crop, SIDE)
            picture[inside] = patch[rows - rows.min(), columns - columns.min()]
            mask[inside] = SAMPLE_CLASSES.index(crop.label)
        Image.fromarray(picture).save(folder / PICTURES / f"{mosaic.name}.png")
        colour_mask(mask, PALETTE).save(folder / MASKS / f"{mosaic.name}.png")
    names = [mosaic.name for mosaic in mosaics]
    ids = {split: [name for name in names if name.startswith(split)] for split in COUNTS}
    describe(folder, SAMPLE_CLASSES, Masks(PALETTE), ids)
    write_licence(folder)
