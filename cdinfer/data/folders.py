"""Pictures of a folder as training samples.

    file --read, resize--> (H, W, 3) uint8 --crop, flip--> image (3, h, w) float32 in [0, 1]

A sample is ``{image, label, size, index}``; size is that of the picture after resizing.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cdinfer.data.draws import Draw, crop_offset, split_draw
from cdinfer.data.images import read_image, resize_short_side, to_tensor
from cdinfer.data.layout import Item

Picture = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class PictureDataset(Dataset[dict[str, Tensor]]):
    """Cropped pictures.

    Args:
        root: folder the items' keys are relative to.
        items: the pictures.
        crop: side of the square crop in pixels; ``None`` gives whole pictures. Smaller pictures
            are padded by replication.
        resize: short side to scale to first, aspect kept; ``None`` keeps the size.
        flip: mirror every other training sample.
        seed: of crops and flips.
        memory: MiB of decoded pictures to keep, for sets that fit and are seen often.
    """

    def __init__(
        self,
        root: Path,
        items: list[Item],
        crop: int | None,
        resize: int | None = None,
        flip: bool = False,
        seed: int = 0,
        memory: int = 0,
    ) -> None:
        self.root, self.items = root, items
        self.crop, self.resize, self.flip, self.seed = crop, resize, flip, seed
        self._room = memory * 2**20
        self._kept: dict[int, Picture] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw | int) -> dict[str, Tensor]:
        index, rng = split_draw(draw, self.seed)
        picture = self._read(index)
        height, width = picture.shape[:2]
        if self.crop is not None:
            picture = _pad(picture, self.crop)
            top, left = crop_offset(
                (picture.shape[0], picture.shape[1]), (self.crop, self.crop), rng
            )
            picture = picture[top : top + self.crop, left : left + self.crop]
        if self.flip and rng is not None and rng.integers(2):
            picture = picture[:, ::-1]
        return {
            "image": to_tensor(np.ascontiguousarray(picture)),
            "label": torch.tensor(self.items[index].label),
            "size": torch.tensor([height, width]),
            "index": torch.tensor(index),
        }

    def _read(self, index: int) -> Picture:
        if index in self._kept:
            return self._kept[index]
        picture = read_image(self.root / self.items[index].key)
        if self.resize is not None:
            picture = resize_short_side(picture, self.resize)
        if picture.nbytes <= self._room:
            self._kept[index] = picture
            self._room -= picture.nbytes
        return picture


def _pad(picture: Picture, side: int) -> Picture:
    """Replicate the right and bottom border until both sides are at least ``side``."""
    bottom, right = (max(side - have, 0) for have in picture.shape[:2])
    if bottom == 0 and right == 0:
        return picture
    return np.pad(picture, ((0, bottom), (0, right), (0, 0)), mode="edge")
