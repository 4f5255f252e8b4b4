"""Data sets of torchvision whose every pixel has a class.

torchvision:VOCSegmentation:ROOT       ROOT holds VOCdevkit/VOC2012/
torchvision:Cityscapes:ROOT            ROOT holds leftImg8bit/ and gtFine/; its 19 classes
"""

from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.data.layout import Folder, ImageSet, Item, complete
from cdinfer.data.lists import check_paths
from cdinfer.data.masks import Masks
from cdinfer.data.voc import VOC_CLASSES, voc_palette


class Masked(NamedTuple):
    """What is fixed of a data set with masks.

    Attributes:
        options: of torchvision's class, such that its targets are masks.
        classes: names in the order of the masks' numbers.
        masks: what masks have in common.
    """

    options: dict[str, Any]
    classes: list[str]
    masks: Masks


def find_masked(kind: Any) -> Masked | None:  # noqa: ANN401
    """Return what is known of torchvision's class ``kind``; ``None`` if it has no masks."""
    if kind.__name__ == "VOCSegmentation":
        return Masked({}, list(VOC_CLASSES), Masks(voc_palette(len(VOC_CLASSES))))
    if kind.__name__ == "Cityscapes":
        trained = [one for one in kind.classes if 0 <= one.train_id < 255]
        trained.sort(key=lambda one: int(one.train_id))
        masks = Masks(
            [list(one.color) for one in trained],
            numbers={one.id: one.train_id for one in trained},
        )
        return Masked({"target_type": "semantic"}, [one.name for one in trained], masks)
    return None


def list_masked(masked: Masked, root: Path, sets: dict[str, Any]) -> ImageSet:
    """List pictures and masks of the splits in ``sets``, in the order of their paths.

    Raises:
        ValueError: if one of them is not there.
    """
    items = {}
    for split, data in sets.items():
        targets = [mask if isinstance(mask, str) else mask[0] for mask in data.targets]
        files = [
            [Path(name).relative_to(root) for name in names] for names in (data.images, targets)
        ]
        for paths in files:
            check_paths(root, f"torchvision's {type(data).__name__}", paths)
        pairs = sorted(zip(*files, strict=True))
        items[split] = [Item(p.as_posix(), -1, mask=mask.as_posix()) for p, mask in pairs]
    return ImageSet(root, masked.classes, complete(items), Folder(root), masked.masks)
