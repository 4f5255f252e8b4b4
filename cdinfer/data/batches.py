"""Bitstreams of a set -> a batch: one decoding call for each latent size in it, then the crop.

Masks are cut as the latents are: a box of latents times the stride, filled with ``ignore_index``
where the last latents reach beyond the picture. Without a crop they have their picture's size.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdinfer.bitstream.container import Parsed
from cdinfer.bitstream.errors import BitstreamError
from cdinfer.codecs.cae import CAE
from cdinfer.data.draws import random_offsets
from cdinfer.data.index import Index
from cdinfer.data.mask_blocks import from_png
from cdinfer.data.masks import cut_mask

Ints = NDArray[np.int64]


class Batcher(NamedTuple):
    """How samples of a set become batches.

    Attributes:
        name: of the set, for errors.
        codec: of the set.
        crop: side of the crop in pixels, a multiple of the stride where latents are cropped;
            ``None`` takes all.
        crop_latents: crop the planes; otherwise they stay whole and ``crop (B, 4)`` says what to
            cut after decoding.
        seed: of the random crops.
        whole: samples come one at a time, uncropped, and may have any size.
        about: the index of the set; it says what masks are.
    """

    name: str
    codec: CAE
    crop: int | None
    crop_latents: bool
    seed: int
    whole: bool
    about: Index

    @property
    def sizes_matter(self) -> bool:
        """Whether pictures of a batch need one size to the pixel, not just one size of latents."""
        masks_are_whole = self.about.masks is not None and self.crop is None
        return not self.whole and (masks_are_whole or not self.crop_latents)

    def batch(
        self,
        files: Callable[[int, int], Parsed],
        shapes: Sequence[tuple[int, int]],
        sizes: Ints,
        labels: Ints,
        epochs: Ints,
        samples: Ints,
        masks: Sequence[bytes | memoryview] = (),
    ) -> dict[str, Any]:
        """Return planes, label, size, index, and crop where decoding comes first; and masks.

        Args:
            files: called with a place in the batch and one in the decoding call.
            shapes: latent size of each sample.
            sizes: ``(B, 2)`` in pixels.
            labels: ``(B,)``.
            epochs: ``(B,)``, -1 for centred crops.
            samples: ``(B,)``, their numbers in the split.
            masks: the PNG of each sample, in sets with masks.

        Raises:
            BitstreamError: if a file or mask is damaged; its ``index`` is a place in the batch.
        """
        boxes = self._boxes(sizes, epochs, samples)
        batch: dict[str, Any] = {
            "planes": self._unpack(files, shapes, boxes),
            "label": torch.from_numpy(labels),
            "size": torch.from_numpy(sizes),
            "index": torch.from_numpy(samples),
        }
        if not self.crop_latents:
            batch["crop"] = torch.from_numpy(boxes)
        if self.about.masks is not None:
            batch["mask"] = self._read_masks(masks, sizes, boxes)
        return batch

    def check_latents(self, shapes: set[tuple[int, int]]) -> None:
        """Refuse a crop of latents that not every sample can give.

        Args:
            shapes: heights and widths of all latents.

        Raises:
            ValueError: saying which crop to ask for.
        """
        if self.whole:
            return
        stride = self.codec.stride
        if self.crop_latents and self.crop is not None and self.crop % stride:
            near = max(stride, round(self.crop / stride) * stride)
            least = min((min(shape) * stride for shape in shapes), default=near)
            raise ValueError(
                f"expected --data.crop to be a multiple of the codec's stride {stride}, "
                f"got {self.crop}: give --data.crop {min(near, least)}"
            )
        if not self.crop_latents and len(shapes) > 1:
            raise ValueError(
                f"'{self.name}' has pictures of {len(shapes)} sizes and input decoded needs "
                "one: give input latents, or export pictures of one size"
            )
        if self.crop_latents:
            self.check_sizes({(height * stride, width * stride) for height, width in shapes})

    def check_sizes(self, sizes: set[tuple[int, int]]) -> None:
        """Refuse a crop that pictures of ``sizes``, in pixels, cannot give.

        Raises:
            ValueError: saying which crop to ask for.
        """
        least = min((min(size) for size in sizes), default=self.codec.stride)
        if self.crop_latents:
            least += -least % self.codec.stride
        if self.crop is None and len(sizes) > 1:
            raise ValueError(
                f"'{self.name}' has pictures of {len(sizes)} sizes: give --data.crop {least}"
            )
        if self.crop is not None and sizes and self.crop > least:
            raise ValueError(
                f"--data.crop {self.crop} is larger than pictures of '{self.name}' "
                f"(shortest side {least}): give --data.crop {least}"
            )

    def _boxes(self, sizes: Ints, epochs: Ints, samples: Ints) -> Ints:
        """Return top, left, height and width of crops ``(B, 4)``: in latents, or in pixels."""
        whole = -(-sizes // self.codec.stride) if self.crop_latents else sizes
        if self.crop is None:
            return np.hstack([np.zeros_like(whole), whole])
        side = self.crop // self.codec.stride if self.crop_latents else self.crop
        rooms = np.maximum(whole - side, 0)
        offsets = random_offsets(self.seed, epochs, samples, rooms)
        offsets = np.where(epochs[:, None] < 0, rooms // 2, offsets)
        return np.hstack([offsets, np.full_like(whole, side)])

    def _read_masks(self, pngs: Sequence[bytes | memoryview], sizes: Ints, boxes: Ints) -> Tensor:
        """Return ``(B, h, w)`` uint8."""
        assert self.about.masks is not None
        ignore_index, classes = self.about.masks.ignore_index, len(self.about.classes)
        pixels = boxes * self.codec.stride if self.crop_latents else boxes
        found = []
        for place, (png, (height, width)) in enumerate(zip(pngs, sizes.tolist(), strict=True)):
            try:
                mask = from_png(png, (height, width), classes, ignore_index)
            except ValueError as error:
                raise BitstreamError(str(error), place) from error
            if self.crop is not None:
                mask = cut_mask(mask, pixels[place].tolist(), ignore_index)
            found.append(mask)
        return torch.from_numpy(np.stack(found))

    def _unpack(
        self,
        files: Callable[[int, int], Parsed],
        shapes: Sequence[tuple[int, int]],
        boxes: Ints,
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for shape in dict.fromkeys(shapes):
            chosen = [place for place, other in enumerate(shapes) if other == shape]
            try:
                planes = self.codec.unpack([files(place, k) for k, place in enumerate(chosen)])
            except BitstreamError as error:
                raise BitstreamError(str(error), chosen[error.index or 0]) from error
            if self.crop_latents:
                planes = {name: _cut(plane, boxes[chosen]) for name, plane in planes.items()}
            if len(chosen) == len(shapes):
                return planes
            for name, plane in planes.items():
                if name not in found:
                    found[name] = plane.new_empty((len(shapes), *plane.shape[1:]))
                found[name][chosen] = plane
        return found


def _cut(plane: Tensor, boxes: Ints) -> Tensor:
    """Cut boxes of one size out of ``plane (B, C, h, w)``."""
    height, width = boxes[0, 2:].tolist()
    if plane.shape[-2:] == (height, width):
        return plane
    source = plane.numpy()
    cut = np.empty((*plane.shape[:2], height, width), source.dtype)
    # A row is copied as one element of so many bytes: half the time of copying its numbers.
    row = np.dtype(f"V{width * source.itemsize}")
    rows, views = cut.view(row)[..., 0], dict[int, NDArray[Any]]()
    for i, (top, left) in enumerate(boxes[:, :2].tolist()):
        if left not in views:
            offset = left * source.itemsize
            views[left] = np.ndarray(source.shape[:3], row, source, offset, source.strides[:3])
        rows[i] = views[left][i, :, top : top + height]
    return torch.from_numpy(cut)
