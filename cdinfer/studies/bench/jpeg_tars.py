"""The peers of loading: JPEG files in webdataset tars -> batches of uint8 pixels.

Each of the decoders of `jpeg` with torchvision's transforms (v2), what its users do: a random crop
or, as usual for ImageNet, a random resized crop; then a random flip. Batches stay uint8, which is
kind to JPEG: making floats of them is left to the device, as dequantising is with latents.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import webdataset
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from cdinfer.data.layout import ImageSet
from cdinfer.studies.bench.jpeg import with_pillow

#: A crop's name in rows -> its class in torchvision.
CROPS = {"random crop": v2.RandomCrop, "random resized crop": v2.RandomResizedCrop}

#: Pictures that are shuffled in memory.
SHUFFLE = 1000


class Preparation(NamedTuple):
    """From a JPEG file to a tensor of a batch; it can be sent to worker processes."""

    decode: Callable[[bytes], Any]
    transform: Callable[[Any], Any]

    def __call__(self, data: bytes) -> Tensor:
        """Return ``(3, side, side)`` uint8."""
        prepared: Tensor = self.transform(self.decode(data))
        return prepared


def write_tars(images: ImageSet, folder: Path, count: int = 1) -> list[str]:
    """Write the files of a set as webdataset tars, KEY.jpg and KEY.cls, and return their paths."""
    items, paths = images.splits["train"], []
    for tar_number in range(count):
        paths.append(str(folder / f"jpeg-{tar_number:03d}.tar"))
        with webdataset.TarWriter(paths[-1], encoder=False, mtime=0) as tar:
            for number in range(tar_number, len(items), count):
                data = (images.root / items[number].key).read_bytes()
                label = str(items[number].label).encode()
                tar.write({"__key__": f"{number:06d}", "jpg": data, "cls": label})
    return paths


def make_loader(
    tars: Sequence[str],
    decode: Callable[[bytes], Any],
    crop: str,
    side: int,
    batch_size: int,
    workers: int = 0,
) -> DataLoader[Any]:
    """Return batches ``[images (B, 3, side, side) uint8, labels (B,)]``.

    Args:
        tars: of `write_tars`, at least one a worker.
        decode: one of ``jpeg.DECODERS``.
        crop: one of ``CROPS``.
        side: of the crop, in pixels.
        batch_size: B.
        workers: processes.
    """
    steps = [CROPS[crop](side), v2.RandomHorizontalFlip()]
    transform = v2.Compose([*steps, v2.PILToTensor()] if decode is with_pillow else steps)
    dataset = webdataset.WebDataset(list(tars), shardshuffle=False).shuffle(SHUFFLE)
    dataset = dataset.to_tuple("jpg", "cls").map_tuple(Preparation(decode, transform), int)
    return DataLoader(dataset, batch_size, num_workers=workers)
