"""The embedded sample set: seven materials, cut from photographs everybody already has.

The photographs lie inside the scikit-image wheel (the same bytes in 0.24, 0.25 and 0.26),
so nothing comes from the network. ``sample_set`` cuts them, once and in seconds, into
64 x 64 crops, 120 + 20 + 40 (train, val, test) of each class:

    class     picture                region, px  cells  licence, as skimage.data states it
    brick     brick.png               512 x 512  5 x 5  CC0
    coffee    coffee.png              600 x 400  5 x 7  CC0 by the photographer
    coins     coins.png               384 x 303  4 x 5  no known copyright restrictions
    galaxies  hubble_deep_field.jpg  1000 x 872  5 x 6  NASA, public domain
    grass     grass.png               512 x 512  5 x 5  CC0
    gravel    gravel.png              512 x 512  5 x 5  CC0
    retina    retina.jpg              960 x 960  7 x 7  CC0

    photograph -> cells, each of one split -> windows -> 64 x 64 -> grey levels matched

No pixel is shared by two splits: each cell of a photograph belongs to train, val or test
alone, and windows stay ``GUARD`` pixels inside their cell. Neither colour nor brightness
gives the class away: crops are grey, their mean and contrast drawn from one distribution.
Left out: moon.png, whose docstring states no licence; chelsea.png, a cat of fur, eyes and
blurred background, and ihc.png, stained tissue that grey crops mix up with other grain: small
networks got them right less than half of the time.
"""

import math
import random
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdinfer.bitstream.remote import cache_folder
from cdinfer.data.images import read_image

#: Folder of the set inside the cache. Other crops need another name.
NAME = "sample-2"

#: Side of a crop in pixels.
SIZE = 64

#: Split -> crops of each class.
COUNTS = {"train": 120, "val": 20, "test": 40}

#: Every split gets cells from all over a photograph: 3 * row + column modulo 7 is 0 in test
#: cells, 3 in val cells and something else in train cells.
CELLS = {"train": (1, 2, 4, 5, 6), "val": (3,), "test": (0,)}

#: Pixels between a window and the border of its cell.
GUARD = 3

#: Smallest and largest side of a window, as a share of its cell's side without guard.
ZOOM = (0.7, 1.0)

#: Ranges of a crop's mean and standard deviation, in grey levels of 255.
MEAN, CONTRAST = (100.0, 155.0), (28.0, 44.0)

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
Grey = npt.NDArray[np.uint8]


class Source(NamedTuple):
    """A photograph of scikit-image and how it is divided.

    Attributes:
        picture: file name.
        region: part of the photograph that is used.
        rows, columns: of the grid of cells laid over the region.
        licence: what the ``skimage.data`` docstring says of origin and licence.
    """

    picture: str
    region: Box
    rows: int
    columns: int
    licence: str


class Crop(NamedTuple):
    """One picture of the set.

    Attributes:
        split: train, val or test.
        label: class name.
        number: index within split and class.
        box: window in the photograph.
        mean, contrast: mean and standard deviation of the grey levels.
    """

    split: str
    label: str
    number: int
    box: Box
    mean: float
    contrast: float


SOURCES = {
    "brick": Source(
        "brick.png", (0, 0, 512, 512), 5, 5,
        "CC0Textures, Bricks25; licensed under the Creative Commons CC0 License.",
    ),
    "coffee": Source(
        "coffee.png", (0, 0, 600, 400), 5, 7,
        "Courtesy of Pikolo Espresso Bar; no copyright restrictions, CC0 by the photographer "
        "(Rachel Michetti).",
    ),
    "coins": Source(
        "coins.png", (0, 0, 384, 303), 4, 5,
        "Brooklyn Museum Collection; no known copyright restrictions.",
    ),
    "galaxies": Source(
        "hubble_deep_field.jpg", (0, 0, 1000, 872), 5, 6,
        "HubbleSite; captured by NASA, may be freely used in the public domain.",
    ),
    "grass": Source(
        "grass.png", (0, 0, 512, 512), 5, 5,
        "DeviantArt, linolafett, Grass-01; licensed under the Creative Commons CC0 License.",
    ),
    "gravel": Source(
        "gravel.png", (0, 0, 512, 512), 5, 5,
        "CC0Textures, Gravel04; licensed under the Creative Commons CC0 License.",
    ),
    "retina": Source(
        "retina.jpg", (225, 225, 1185, 1185), 7, 7,
        "Wikimedia Commons, Mikael Haggstrom; Creative Commons CC0 1.0 Universal Public Domain "
        "Dedication.",
    ),
}  # fmt: skip

LICENCE_HEAD = """\
Crops of photographs that are distributed with scikit-image (https://scikit-image.org), made
grey, scaled and changed in brightness and contrast by cdinfer. Origin and licence of each
photograph, as the docstrings of skimage.data state them:

"""

#: The classes in the order of their indices.
SAMPLE_CLASSES = tuple(SOURCES)


def sample_set(root: Path | None = None) -> Path:
    """Return the folder of the sample set, made on the first call.

    It holds ``{train,val,test}/CLASS/NNN.png`` (8-bit grey) and ``LICENSE.txt``.

    Args:
        root: cache folder, as :func:`make_once` takes it.

    Raises:
        ValueError: if the cache cannot be written or scikit-image lacks its photographs.
    """
    return make_once(NAME, _write, root)


def make_once(name: str, write: Callable[[Path], None], root: Path | None) -> Path:
    """Return the folder ``name`` in the cache, written on the first call.

    It appears whole or not at all, whoever is interrupted or makes it at the same time.

    Args:
        name: of the folder.
        write: makes the folder it is given, which does not exist yet.
        root: cache folder; ``None`` is ``$CDINFER_CACHE``, else ``$XDG_CACHE_HOME/cdinfer``,
            else ``~/.cache/cdinfer``.

    Raises:
        ValueError: if the cache cannot be written.
    """
    root = cache_folder() if root is None else root
    target = root / name
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as temporary:
            made = Path(temporary, name)
            write(made)
            made.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was faster
            raise ValueError(
                f"{root}: the sample set cannot be written there ({error.strerror}); "
                "set CDINFER_CACHE to a folder that can be written"
            ) from None
    return target


def read_photographs() -> dict[str, Image.Image]:
    """Return the photograph of each class, grey.

    Raises:
        ValueError: if scikit-image lacks its photographs.
    """
    package = find_spec("skimage")  # finds it without importing it
    if package is None or package.origin is None:
        raise ValueError("expected scikit-image with its photographs; pip install scikit-image")
    data = Path(package.origin).parent / "data"
    return {
        label: Image.fromarray(read_image(data / source.picture)).convert("L")
        for label, source in SOURCES.items()
    }


def plan() -> list[Crop]:
    """Return every crop of the set, by class, split and number.

    The same on every machine: ``random.Random.random`` of a seeded generator is promised
    not to change.

    Example:
        >>> len(plan())
        1260
    """
    crops: list[Crop] = []
    for label, source in SOURCES.items():
        rng = random.Random(f"{NAME} {label}")
        for split, count in COUNTS.items():
            cells = cells_of(source, split)
            crops += [
                draw_crop(split, label, number, cells[number % len(cells)], rng)
                for number in range(count)
            ]
    return crops


def match_grey(pixels: Grey, mean: float, contrast: float) -> Grey:
    """Return a picture that is not flat with another mean and standard deviation.

    They hold after clipping to [0, 255]. Moments are taken from integers, so they do not
    depend on the order of summation and the result is the same on every machine.

    Example:
        >>> match_grey(np.array([[0, 1]], np.uint8), 100.0, 20.0).tolist()
        [[80, 120]]
    """
    gain, offset = 1.0, 0.0
    matched = pixels
    for _ in range(8):  # once would do, but for clipping
        total = int(matched.sum(dtype=np.int64))
        squares = int(np.square(matched, dtype=np.int64).sum())
        spread = math.sqrt(matched.size * squares - total**2) / matched.size
        scale = contrast / spread
        gain, offset = gain * scale, (offset - total / matched.size) * scale + mean
        matched = np.rint((pixels * gain + offset).clip(0, 255)).astype(np.uint8)
    return matched


def cut(photographs: dict[str, Image.Image], crop: Crop, side: int) -> Grey:
    """Return the window of a crop, resized to ``side`` x ``side`` and matched."""
    # resize(box=...) would look beyond the window; crop does not.
    window = photographs[crop.label].crop(crop.box)
    window = window.resize((side, side), Image.Resampling.BICUBIC)
    return match_grey(np.asarray(window), crop.mean, crop.contrast)


def draw_crop(split: str, label: str, number: int, cell: Box, rng: random.Random) -> Crop:
    """Return a random crop out of a cell."""
    box = _window(cell, rng)
    mean, contrast = between(MEAN, rng.random()), between(CONTRAST, rng.random())
    return Crop(split, label, number, box, mean, contrast)


def write_licence(folder: Path) -> None:
    """Write what may be done with the photographs, and whose they are."""
    lines = [f"{label} ({source.picture}): {source.licence}" for label, source in SOURCES.items()]
    (folder / "LICENSE.txt").write_text(LICENCE_HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def cells_of(source: Source, split: str) -> list[Box]:
    """Return the cells of a photograph that belong to a split, row by row."""
    left, top, right, bottom = source.region
    xs = [left + (right - left) * column // source.columns for column in range(source.columns + 1)]
    ys = [top + (bottom - top) * row // source.rows for row in range(source.rows + 1)]
    return [
        (xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row, column in product(range(source.rows), range(source.columns))
        if (3 * row + column) % 7 in CELLS[split]
    ]


def _window(cell: Box, rng: random.Random) -> Box:
    """Return a random square in a cell, off its border."""
    left, top, right, bottom = cell
    width, height = right - left - 2 * GUARD, bottom - top - 2 * GUARD
    side = int(between(ZOOM, rng.random()) * min(width, height))
    x = left + GUARD + int((width - side + 1) * rng.random())
    y = top + GUARD + int((height - side + 1) * rng.random())
    return x, y, x + side, y + side


def between(ends: tuple[float, float], share: float) -> float:
    """Return the point that lies at ``share`` of the way from the first end to the second."""
    return ends[0] + (ends[1] - ends[0]) * share


def _write(folder: Path) -> None:
    """Cut every crop of the plan into ``folder``."""
    photographs = read_photographs()
    for split, label in product(COUNTS, SOURCES):
        (folder / split / label).mkdir(parents=True)
    for crop in plan():
        pixels = cut(photographs, crop, SIZE)
        Image.fromarray(pixels).save(folder / crop.split / crop.label / f"{crop.number:03}.png")
    write_licence(folder)
