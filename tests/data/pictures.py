"""Small pictures as files, in tars, and as an export sees them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from cdinfer.data.encoding import Plan, Work, read_batches
from cdinfer.data.layout import ImageSet
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
    work = Work(found.root, found.source, True, Path(), Plan(), "cpu", False, False)
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
