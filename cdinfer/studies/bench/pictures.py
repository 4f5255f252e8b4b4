"""The pictures that benches run on: 256 x 256 pixels, with the name of a class.

    a folder        as many as are wanted, evenly spread over it; the short side becomes 256, then
                    the centre is taken; a class is the folder a picture lies in
    no folder       windows of the photographs inside scikit-image, which `data.sample` describes

On disk they are JPEG files of quality 90, 4:2:0; sets are exported from these.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdinfer.codecs.classical import Picture
from cdinfer.data.images import find_images, read_image, resize_short_side, to_tensor
from cdinfer.data.layout import Folder, ImageSet, Item
from cdinfer.data.sample import SOURCES

SIDE, QUALITY = 256, 90

#: Side of what networks see over the side of the pictures.
CROP = 224 / 256

#: Pictures that are encoded at once.
BATCH = 16


class Pictures(NamedTuple):
    """Pictures with their classes.

    Attributes:
        name: what they are, for people.
        classes: names.
        items: a key, as the path of a file, and a class of each picture.
        pixels: ``(256, 256, 3)`` each.
        folder: where the files of the items lie; ``None`` without a folder.
    """

    name: str
    classes: list[str]
    items: list[Item]
    pixels: list[Picture]
    folder: Path | None

    def batches(self) -> Iterator[Tensor]:
        """Yield float32 ``(B, 3, 256, 256)`` in [0, 1]."""
        for start in range(0, len(self.pixels), BATCH):
            yield torch.stack([to_tensor(p) for p in self.pixels[start : start + BATCH]])


def read_pictures(folder: Path | None, count: int, side: int = SIDE) -> Pictures:
    """Return ``count`` pictures, or all there are in a folder that holds fewer.

    Raises:
        ValueError: if there is no picture, or one cannot be read.
    """
    named = _windows(count, side) if folder is None else _read_folder(folder, count, side)
    classes = sorted({label for _, label, _ in named})
    items = [Item(key, classes.index(label)) for key, label, _ in named]
    name = "windows of scikit-image's photographs" if folder is None else folder.resolve().name
    return Pictures(name, classes, items, [pixels for *_, pixels in named], folder)


def crop_side(pictures: Pictures) -> int:
    """Return the side of what networks see, a multiple of 8 pixels."""
    return 8 * int(CROP * pictures.pixels[0].shape[0] / 8)


def write_pictures(pictures: Pictures, folder: Path) -> ImageSet:
    """Write JPEG files, and return them as a set that `data.export` takes."""
    items = [Item(_jpeg_name(item.key), item.label) for item in pictures.items]
    for item, pixels in zip(items, pictures.pixels, strict=True):
        path = folder / item.key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=QUALITY)
    return ImageSet(folder, pictures.classes, {"train": items}, Folder(folder))


def originals(pictures: Pictures) -> ImageSet | None:
    """Return the files the pictures were read from, if all are JPEG."""
    folder, items = pictures.folder, pictures.items
    if folder is None or any(item.key != _jpeg_name(item.key) for item in items):
        return None
    return ImageSet(folder, pictures.classes, {"train": items}, Folder(folder))


def _jpeg_name(key: str) -> str:
    return key if Path(key).suffix.lower() in (".jpg", ".jpeg") else f"{key}.jpg"


def _read_folder(folder: Path, count: int, side: int) -> list[tuple[str, str, Picture]]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of pictures; check the path")
    paths = find_images(folder)
    if not paths:
        raise ValueError(f"no pictures in '{folder}': expected PNG, JPEG, WebP, ... files there")
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    pictures = (resize_short_side(read_image(path), side) for path in chosen)
    return [
        (path.relative_to(folder).as_posix(), path.parent.name, _centre(picture, side))
        for path, picture in zip(chosen, pictures, strict=True)
    ]


def _centre(picture: Picture, side: int) -> Picture:
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def _windows(count: int, side: int) -> list[tuple[str, str, Picture]]:
    """Cut square windows out of scikit-image's photographs, of one after the other."""
    spec = find_spec("skimage")  # finds it without importing it
    if spec is None or spec.origin is None:
        raise ValueError("expected scikit-image with its photographs; give --data FOLDER")
    folder = Path(spec.origin).parent / "data"
    photographs = {}
    for label, source in SOURCES.items():
        left, top, right, bottom = source.region
        photographs[label] = read_image(folder / source.picture)[top:bottom, left:right]
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        label = list(SOURCES)[number % len(SOURCES)]
        photograph = photographs[label]
        size = int(rng.integers(min(side, *photograph.shape[:2]), min(photograph.shape[:2]) + 1))
        top, left = (int(rng.integers(length - size + 1)) for length in photograph.shape[:2])
        window = Image.fromarray(photograph[top : top + size, left : left + size])
        pixels = np.asarray(window.resize((side, side), Image.Resampling.BICUBIC))
        found.append((f"{label}/{number:05}.png", label, pixels))
    return found
