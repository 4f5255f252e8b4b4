"""Small pictures as files, in tars, and as an export sees them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cdinfer.data.encoding import Plan, Work, read_batches
from cdinfer.data.layout import Folder, ImageSet, Item
from cdinfer.data.masks import Masks
from tests.conftest import draw

Member = tuple[str, bytes]


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw(16, 24, seed)).save(file, "jpeg")
    return file.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def pixels(found: ImageSet) -> dict[str, np.ndarray]:
    """What an export encodes, by key."""
    work = Work(found.root, found.source, len(found.classes), Path(), Plan(), "cpu", False, False)
    items = [item for split in found.splits.values() for item in split]
    batches = read_batches(work, items, [])
    return {one.item.key: one.x.permute(1, 2, 0).numpy() for batch in batches for one in batch}


def labels(found: ImageSet, split: str = "train") -> dict[str, str]:
    return {item.key: found.classes[item.label] for item in found.splits[split]}


def write_tar(path: Path, members: list[Member], format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(number: int, label: object = 0, folder: str = "") -> list[Member]:
    return [(f"{folder}{number}.jpg", jpeg(number)), (f"{folder}{number}.cls", str(label).encode())]


def paint_masks(
    root: Path, counts: dict[str, int], sizes: Sequence[tuple[int, int]], first: int = 0
) -> ImageSet:
    """Write ``photos/SPLIT/NUMBER.png`` of sizes in turns, and masks of the same names.

    The class of a pixel says in which 8 x 8 square it lies, of 10 in a row; the first pixel has
    none. There are as many classes as squares in pictures of 80 x 80.
    """
    palette = [[number, 2 * number, 255 - number] for number in range(100)]
    items: dict[str, list[Item]] = {split: [] for split in ("train", "val", "test")}
    for split, count in counts.items():
        for number in range(first, first + count):
            height, width = sizes[number % len(sizes)]
            names = [f"{kind}/{split}/{number}.png" for kind in ("photos", "masks")]
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(height, width, number)).save(root / names[0])
            mask = Image.fromarray(squares(height, width), "P")
            mask.putpalette([level for colour in palette for level in colour])
            mask.save(root / names[1])
            items[split].append(Item(names[0], -1, mask=names[1]))
    classes = [f"square {number}" for number in range(100)]
    return ImageSet(root, classes, items, Folder(root), Masks(palette))


def squares(height: int, width: int) -> np.ndarray:
    """Return the mask of a picture."""
    y, x = np.mgrid[:height, :width] // 8
    mask = (10 * y + x).astype(np.uint8)
    mask[0, 0] = 255
    return mask
