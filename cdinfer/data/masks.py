"""Masks: the class of every pixel of a picture.

    PNG of classes (palette or grey) --read_mask--> (H, W) uint8: a class, or ``ignore_index``

``ignore_index`` stands for pixels that have no class (borders, "void"): no loss, no score.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdinfer.data.images import ImageError, open_image, pillow, unreadable

Mask = NDArray[np.uint8]

#: What pixels without a class hold, and their colour (PASCAL VOC).
IGNORE_INDEX, VOID = 255, (224, 224, 192)


class Masks(NamedTuple):
    """What the masks of a set have in common.

    Attributes:
        palette: colour (red, green, blue) of each class, for people.
        ignore_index: value of pixels without a class.
        numbers: value in the files -> class, of a set that counts otherwise; others are
            without a class. Empty: files hold classes.
    """

    palette: Sequence[Sequence[int]]
    ignore_index: int = IGNORE_INDEX
    numbers: Mapping[int, int] = {}


def read_mask(path: Path, masks: Masks, num_classes: int, size: tuple[int, int]) -> Mask:
    """Return the mask of a picture of ``size`` (height, width).

    Raises:
        ImageError: if it cannot be read, has another size, or holds a value that is no class.
    """
    with _opened(path) as image:
        if (image.height, image.width) != size:
            raise ImageError(
                f"{path}: expected a mask of {size[1]} x {size[0]} pixels as its picture has, "
                f"got {image.width} x {image.height}"
            )
        if image.mode not in ("P", "L", "1"):
            raise ImageError(
                f"{path}: expected a mask whose pixels are class numbers (8-bit palette or "
                f"grey), got mode {image.mode}"
            )
        mask = np.array(image, np.uint8)
    if masks.numbers:
        table = np.full(256, masks.ignore_index, np.uint8)
        table[list(masks.numbers)] = list(masks.numbers.values())
        mask = table[mask]
    check_mask(mask, num_classes, masks.ignore_index, str(path))
    return mask


def read_palette(path: Path) -> list[list[int]]:
    """Return the colours (red, green, blue) of a palette picture, by its header; of others none.

    Raises:
        ImageError: if it is no picture.
    """
    with _opened(path) as image:
        if image.mode != "P" or image.palette is None:
            return []
        form, colours = image.palette.getdata()
        return np.frombuffer(colours, np.uint8).reshape(-1, 3).tolist() if form == "RGB" else []


def check_mask(mask: Mask, num_classes: int, ignore_index: int, name: str) -> None:
    """Refuse values that are no class and not ``ignore_index``.

    Raises:
        ImageError: naming the value.
    """
    found = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=1))
    strange = [int(value) for value in found if value >= num_classes and value != ignore_index]
    if strange:
        raise ImageError(
            f"{name}: a mask holds class {strange[0]}, expected 0 to {num_classes - 1} or "
            f"{ignore_index} for none; correct it, or name the class in classes.txt"
        )


def colour_mask(mask: Mask, palette: Sequence[Sequence[int]]) -> Image.Image:
    """Return a mask as a palette picture; values that are no class have VOC's colour for that.

    All 256 colours are given: of fewer, Pillow writes fewer bits than 255 needs.

    Example:
        >>> image = colour_mask(np.array([[1, 255]], np.uint8), [[0, 0, 0], [128, 0, 0]])
        >>> image.mode, np.array(image.convert("RGB")).tolist()
        ('P', [[[128, 0, 0], [224, 224, 192]]])
    """
    image = Image.fromarray(mask)
    image.putpalette(all_colours(palette))
    return image


def all_colours(palette: Sequence[Sequence[int]]) -> bytes:
    """Return 256 colours, those of the classes first."""
    return bytes(np.array([*palette, *[VOID] * (256 - len(palette))], np.uint8))


def resize_mask(
    mask: Mask, size: tuple[int, int], box: tuple[int, int, int, int] | None = None
) -> Mask:
    """Return a mask of another size (height, width), or its rows and columns in ``box``.

    The nearest pixel's class, by whole numbers: of two equally near, the one below or to the right.

    Args:
        mask: ``(H, W)``.
        size: to resize to.
        box: top, left, bottom and right of the part to return; ``None`` returns all.

    Example:
        >>> resize_mask(np.array([[0, 1]], np.uint8), (1, 4)).tolist()
        [[0, 0, 1, 1]]
    """
    top, left, bottom, right = (0, 0, *size) if box is None else box
    if mask.shape == size:
        return mask[top:bottom, left:right]
    rows = (2 * np.arange(top, bottom) + 1) * mask.shape[0] // (2 * size[0])
    columns = (2 * np.arange(left, right) + 1) * mask.shape[1] // (2 * size[1])
    resized: Mask = mask[rows[:, None], columns]
    return resized


def cut_mask(mask: Mask, box: Sequence[int], ignore_index: int) -> Mask:
    """Return the part in ``box`` (top, left, height, width); beyond the mask is ``ignore_index``.

    Example:
        >>> cut_mask(np.array([[3, 4]], np.uint8), (0, 1, 1, 2), 255).tolist()
        [[4, 255]]
    """
    top, left, height, width = box
    cut = np.full((height, width), ignore_index, np.uint8)
    part = mask[top : top + height, left : left + width]
    cut[: part.shape[0], : part.shape[1]] = part
    return cut


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a mask; what is wrong with it is an `ImageError`."""
    try:
        with pillow(), open_image(path) as image:
            yield image
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise unreadable(str(path), error) from error
