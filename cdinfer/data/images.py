"""Picture files -> arrays -> tensors, and back.

    file --read_image--> (H, W, 3) uint8 --to_tensor--> (3, H, W) float32 in [0, 1]

Every kind of picture becomes upright 8-bit RGB:

    grey, 1-bit          the same value three times
    16-bit grey          scaled from [0, 65535] to [0, 255], not clipped
    16-bit colour        its upper 8 bits, as Pillow hands it over
    palette              its colours
    alpha, transparency  composited over white, as a page would show it
    CMYK, YCbCr, Lab     Pillow's own formula; ICC profiles are not applied
    several frames       the first one
    EXIF orientation     applied

Floating-point pictures are refused: nothing in them says what white is.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

#: Largest picture that is decoded unless the caller says otherwise, in pixels.
MAX_PIXELS = 512 * 2**20

#: What Pillow may open; formats that run other programs (EPS) are not among them.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

#: File names that ``find_images`` takes for pictures, in lower case.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


class ImageError(ValueError):
    """A file of which no picture can be made.

    Args:
        message: one line that starts with the name of the file.
        reason: the same without the name.
        pixels: of a picture that is larger than wanted; of others 0.
    """

    def __init__(self, message: str, reason: str = "", pixels: int = 0) -> None:
        super().__init__(message)
        self.reason, self.pixels = reason, pixels


_pillow_lock = threading.Lock()
_pillow_users = 0
_pillow_undo = ExitStack()


def read_image(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Return a picture file as ``(H, W, 3)`` RGB, upright.

    Args:
        source: path, open binary file, or the bytes of a picture file.
        max_pixels: larger pictures are refused by their header, before any is decoded.

    Raises:
        ImageError: if the file is missing, damaged, no picture, too large or holds
            pixels other than 8- or 16-bit ones.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    name = str(source) if isinstance(source, str | Path) else getattr(file, "name", "the picture")
    with pillow():
        try:
            image = open_image(file)
        except Exception as error:
            raise unreadable(name, error) from None
        with image:
            area = image.width * image.height
            if area > max_pixels:
                reason = (
                    f"its header claims {image.width} x {image.height} pixels, expected at most "
                    f"{max_pixels}"
                )
                raise ImageError(f"{name}: {reason}", reason, area)
            try:
                image.load()
                pixels = np.asarray(_to_rgb(image))
                # Only now: TIFF turns itself while loading, PNG may keep its EXIF at the end.
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            except MemoryError:  # a sound picture, too large for this machine
                raise
            except Exception as error:  # Pillow raises nearly anything on damaged files
                raise unreadable(name, error) from None
    return _upright(pixels, orientation)


def resize_short_side(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return the picture with ``side`` pixels along its short side, aspect kept.

    Pillow's bicubic filter, which averages over the whole footprint of a pixel when it
    shrinks (no aliasing). The long side is rounded to the nearest pixel, halves up.

    Args:
        image: ``(H, W, 3)``.
        side: at least 1. A picture that already has it is returned as it is.

    Raises:
        ValueError: if ``side`` is not positive or the result would exceed ``MAX_PIXELS``.

    Example:
        >>> resize_short_side(np.zeros((30, 45, 3), np.uint8), 20).shape
        (20, 30, 3)
    """
    if side < 1:
        raise ValueError(f"expected a short side of at least 1 pixel, got --resize {side}")
    height, width = image.shape[:2]
    short = min(height, width)
    if short == side:
        return image
    height, width = ((2 * length * side + short) // (2 * short) for length in (height, width))
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"--resize {side} would make {width} x {height} pixels of a picture of "
            f"{image.shape[1]} x {image.shape[0]}, expected at most {MAX_PIXELS}; "
            "crop the picture or give a smaller --resize"
        )
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized)


def to_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """Return an ``(H, W, 3)`` picture as float32 ``(3, H, W)`` in [0, 1].

    Example:
        >>> to_tensor(np.full((1, 1, 3), 51, np.uint8)).flatten()
        tensor([0.2000, 0.2000, 0.2000])
    """
    return torch.tensor(image).permute(2, 0, 1).contiguous().float() / 255


def as_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """Return an ``(H, W, 3)`` picture as uint8 ``(3, H, W)`` that shares its memory.

    Example:
        >>> as_tensor(np.full((1, 2, 3), 51, np.uint8)).shape
        torch.Size([3, 1, 2])
    """
    return torch.from_numpy(image).permute(2, 0, 1)


def from_tensor(x: Tensor) -> npt.NDArray[np.uint8]:
    """Return a ``(3, H, W)`` tensor as an ``(H, W, 3)`` picture: clamped, then rounded.

    Example:
        >>> from_tensor(torch.tensor([-0.5, 0.2, 1.5]).reshape(3, 1, 1)).tolist()
        [[[0, 51, 255]]]
    """
    levels = x.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def find_images(folder: str | Path) -> list[Path]:
    """Return the picture files below ``folder``, sorted; hidden files and folders are skipped.

    Files are recognised by their suffix, in upper or lower case. Linked folders are
    entered, each real folder once.

    Raises:
        ValueError: if ``folder`` is not a folder.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: expected a folder of pictures; check the path")
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(found)


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Open a picture file with Pillow, inside `pillow`; nothing is decoded yet."""
    return Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN])


@contextmanager
def pillow() -> Iterator[None]:
    """Have Pillow's formats ready, its size limit and its warnings off, while any thread reads.

    ``max_pixels`` replaces the limit; what the warnings are about (EXIF that cannot be read, say)
    does not change a picture.
    """
    global _pillow_users, _pillow_undo
    with _pillow_lock:
        if _pillow_users == 0:
            Image.init()
            with ExitStack() as undo:
                undo.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
                undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None
                _pillow_undo = undo.pop_all()
        _pillow_users += 1
    try:
        yield
    finally:
        with _pillow_lock:
            _pillow_users -= 1
            if _pillow_users == 0:
                _pillow_undo.close()


def unreadable(name: str, error: Exception) -> ImageError:
    """Return the one-line error for a file that Pillow could not make a picture of."""
    if isinstance(error, UnidentifiedImageError):
        cause = "no picture in it"
    else:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
    reason = (
        f"cannot be read ({cause or type(error).__name__}); expected a whole "
        f"{', '.join(FORMATS)} file of 8- or 16-bit pixels; check the path, convert the "
        "picture to PNG or leave it out"
    )
    return ImageError(f"{name}: {reason}", reason)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture of any mode as mode RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point, so nothing says what white is")
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its pixels have 32 bits, so nothing says what white is")
        image = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo an EXIF orientation, 1 to 8 (CIPA DC-008, section 4.6.5); others count as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.array(pixels, order="C")
