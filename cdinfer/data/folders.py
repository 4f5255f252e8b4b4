"""Pictures of a folder as training samples, with their masks if they have some.

    picture --read, resize--> (H, W, 3) uint8 --scale, crop, flip--> image (3, h, w) float32, [0, 1]
    mask ---------------------- (H, W) uint8 ----- the same -------> mask (h, w) uint8

A sample is ``{image, label, size, index}`` and perhaps ``mask``; size is that of the picture after
resizing. What is random is so in training alone, and a function of (seed, epoch, sample).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cdinfer.data.draws import Draw, crop_offset, split_draw
from cdinfer.data.images import read_image, resize_short_side, to_tensor
from cdinfer.data.layout import Item
from cdinfer.data.masks import Mask, Masks, cut_mask, read_mask, resize_mask
from cdinfer.data.strong import random_change, random_part

Picture = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Augment = Literal["plain", "strong"]


class PictureDataset(Dataset[dict[str, Tensor]]):
    """Cropped pictures.

    Args:
        root: folder the items' keys are relative to.
        items: the pictures.
        crop: side of the square crop in pixels; ``None`` gives whole pictures. Smaller pictures
            are padded by replication, their masks by ``ignore_index``.
        resize: short side to scale to first, aspect kept; ``None`` keeps the size.
        flip: mirror every other training sample.
        seed: of everything random.
        memory: MiB of decoded pictures to keep, for sets that fit and are seen often.
        masks: what the items' masks have in common; ``None`` reads none.
        num_classes: of the masks.
        scale: smallest and largest factor by which training samples are resized before they are
            cropped, all alike probable; the picture by bicubic, the mask by nearest neighbours.
        augment: ``strong`` replaces the crops of training (see ``strong.py``).
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
        masks: Masks | None = None,
        num_classes: int = 0,
        scale: tuple[float, float] | None = None,
        augment: Augment = "plain",
    ) -> None:
        assert crop is not None or (scale is None and augment == "plain")
        assert masks is None or augment == "plain"
        self.root, self.items = root, items
        self.crop, self.resize, self.flip, self.seed = crop, resize, flip, seed
        self.masks, self.num_classes = masks, num_classes
        self.scale, self.augment = scale, augment
        self._room = memory * 2**20
        self._kept: dict[int, tuple[Picture, Mask | None]] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw | int) -> dict[str, Tensor]:
        index, rng = split_draw(draw, self.seed)
        picture, mask = self._read(index)
        height, width = picture.shape[:2]
        if self.crop is not None:
            picture, mask = self._cut(picture, mask, self.crop, rng)
        if self.flip and rng is not None and rng.integers(2):
            picture = picture[:, ::-1]
            mask = None if mask is None else mask[:, ::-1]
        sample = {
            "image": to_tensor(np.ascontiguousarray(picture)),
            "label": torch.tensor(self.items[index].label),
            "size": torch.tensor([height, width]),
            "index": torch.tensor(index),
        }
        if mask is not None:
            sample["mask"] = torch.tensor(np.ascontiguousarray(mask))
        return sample

    def _read(self, index: int) -> tuple[Picture, Mask | None]:
        if index in self._kept:
            return self._kept[index]
        item, mask = self.items[index], None
        picture = read_image(self.root / item.key)
        if self.masks is not None:
            size = (picture.shape[0], picture.shape[1])
            mask = read_mask(self.root / item.mask, self.masks, self.num_classes, size)
        if self.resize is not None:
            picture = resize_short_side(picture, self.resize)
            mask = None if mask is None else resize_mask(mask, picture.shape[:2])
        needed = picture.nbytes + (0 if mask is None else mask.nbytes)
        if needed <= self._room:
            self._kept[index] = picture, mask
            self._room -= needed
        return picture, mask

    def _cut(
        self, picture: Picture, mask: Mask | None, crop: int, rng: np.random.Generator | None
    ) -> tuple[Picture, Mask | None]:
        if rng is not None and self.augment == "strong":
            return random_change(random_part(picture, crop, rng), rng), None
        size = (picture.shape[0], picture.shape[1])
        if rng is not None and self.scale is not None:
            factor = rng.uniform(*self.scale)
            size = (max(1, round(factor * size[0])), max(1, round(factor * size[1])))
        top, left = crop_offset(size, (crop, crop), rng)
        box = (top, left, min(top + crop, size[0]), min(left + crop, size[1]))
        picture = _pad(_part(picture, size, box), crop)
        if self.masks is not None and mask is not None:
            mask = resize_mask(mask, size, box)
            mask = cut_mask(mask, (0, 0, crop, crop), self.masks.ignore_index)
        return picture, mask


def _part(picture: Picture, size: tuple[int, int], box: tuple[int, int, int, int]) -> Picture:
    """Return rows and columns ``box`` (top, left, bottom, right) of what resizing would give."""
    top, left, bottom, right = box
    height, width = picture.shape[:2]
    if size == (height, width):
        return picture[top:bottom, left:right]
    y0, y1 = (row * height / size[0] for row in (top, bottom))
    x0, x1 = (column * width / size[1] for column in (left, right))
    part = Image.fromarray(picture)
    shape = (right - left, bottom - top)
    return np.asarray(part.resize(shape, Image.Resampling.BICUBIC, (x0, y0, x1, y1)))


def _pad(picture: Picture, side: int) -> Picture:
    """Replicate the right and bottom border until both sides are at least ``side``."""
    bottom, right = (max(side - have, 0) for have in picture.shape[:2])
    if bottom == 0 and right == 0:
        return picture
    return np.pad(picture, ((0, bottom), (0, right), (0, 0)), mode="edge")
