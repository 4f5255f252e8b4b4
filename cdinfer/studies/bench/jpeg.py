"""JPEG files and pixels: the decoders that are measured.

decoder      module                gives
Pillow       PIL                   a picture of its own
simplejpeg   simplejpeg            an array
TorchCodec   torchcodec.decoders   a tensor; torchvision sends its users there
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cdinfer.codecs.classical import Picture
from cdinfer.studies.bench import peers
from cdinfer.studies.bench.pictures import QUALITY


def with_pillow(data: bytes) -> Image.Image:
    """Decode a JPEG file with Pillow."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def with_simplejpeg(data: bytes) -> Tensor:
    """Decode a JPEG file with simplejpeg to ``(3, H, W)``."""
    return torch.from_numpy(peers.find("simplejpeg").decode_jpeg(data)).permute(2, 0, 1)


def with_torchcodec(data: bytes) -> Tensor:
    """Decode a JPEG file with TorchCodec to ``(3, H, W)``."""
    decoded: Tensor = peers.find("torchcodec.decoders").decode_jpeg(data)
    return decoded


def encode(pixels: Picture) -> bytes:
    """Return a JPEG file of ``QUALITY``, made by Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


#: A decoder's name in rows -> its module, and how to call it.
DECODERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "Pillow": ("PIL", with_pillow),
    "simplejpeg": ("simplejpeg", with_simplejpeg),
    "TorchCodec": ("torchcodec.decoders", with_torchcodec),
}


def installed() -> dict[str, Callable[[bytes], Any]]:
    """Return the decoders that are there, by their names in rows."""
    return {name: decode for name, (module, decode) in DECODERS.items() if peers.find(module)}


def as_array(picture: Any) -> NDArray[np.uint8]:  # noqa: ANN401
    """Return what a decoder gave as ``(H, W, 3)``."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture)
    return np.asarray(picture.permute(1, 2, 0).numpy())
