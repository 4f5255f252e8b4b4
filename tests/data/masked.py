"""Small sets of pictures with masks, in VOC's layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import draw

CLASSES = ("sky", "road", "tree")


def stripes(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a mask of `CLASSES` in columns of 8 pixels, and a row of 255 at the top."""
    mask = np.tile((np.arange(width) // 8 + seed) % len(CLASSES), (height, 1)).astype(np.uint8)
    mask[0] = 255
    return mask


def write_voc(
    root: Path,
    counts: dict[str, int],
    sizes: Sequence[tuple[int, int]] = ((48, 64),),
    classes: Sequence[str] = CLASSES,
    suffix: str = ".png",
) -> Path:
    """Write pictures ``SPLIT-NUMBER`` of sizes (height, width) in turns, their masks and lists."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    seed = 0
    for split, count in counts.items():
        names = [f"{split}-{number}" for number in range(count)]
        for name in names:
            size = sizes[seed % len(sizes)]
            Image.fromarray(draw(*size, seed)).save(root / "JPEGImages" / f"{name}{suffix}")
            write_mask(root / "SegmentationClass" / f"{name}.png", stripes(*size, seed))
            seed += 1
        write_list(root, split, *names)
    if classes:
        (root / "classes.txt").write_text("\n".join(classes))
    return root


def write_mask(path: Path, mask: np.ndarray, colours: Sequence[int] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if colours:
        image.putpalette([*colours, *[0] * (768 - len(colours))])  # fewer are written in fewer bits
    image.save(path)


def write_list(root: Path, name: str, *ids: str) -> None:
    (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
