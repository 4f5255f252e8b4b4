"""Pictures whose every pixel has a class, in the folders of PASCAL VOC.

    JPEGImages/ID.jpg                              a picture, also .png and others
    SegmentationClass/ID.png                       its mask (see ``masks.py``)
    SegmentationClassAug/ID.png                    its mask with ``--splits aug``, without another
    ImageSets/Segmentation/{train,val,test}.txt    an ID a line; ``aug`` reads train_aug.txt or
                                                   trainaug.txt, and val.txt
    classes.txt                                    the names of classes 0, 1, ..., one a line
    labels.json                                    "palette": a colour a class, "ignore_index"

VOC 2012 itself needs neither of the last two. Without labels.json, pixels of value 255 are without
a class, and colours are those of the first training mask, else VOC's. A list for testing none of
whose pictures has a mask (as VOC's own, whose masks are secret) is left out.

References:
    Everingham et al., PASCAL VOC 2012, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
    Hariharan et al., Semantic contours from inverse detectors, ICCV 2011 (SBD, ``aug``)
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.data.images import find_images
from cdinfer.data.lists import SPLITS, Paths, read_lists
from cdinfer.data.masks import IGNORE_INDEX, Masks, read_palette

#: Classes of VOC 2012 in the order of their numbers.
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

#: What pictures of VOC 2012 are called.
VOC_ID = re.compile(r"20(07|08|09|10|11)_\d{6}")

LISTS, PICTURES, MASKS = "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"
CLASSES, LABELS = "classes.txt", "labels.json"

#: Masks hold 8 bits; one value stands for no class.
MAX_CLASSES = 255

#: Largest classes.txt or labels.json that is read, in bytes.
MAX_TEXT = 2**20


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        classes: names in the order of the masks' numbers.
        masks: what masks have in common.
        pairs: split -> paths of pictures and of their masks, below the folder.
    """

    classes: list[str]
    masks: Masks
    pairs: dict[str, list[tuple[Path, Path]]]


def find_voc(root: Path, name: str | None) -> Found | None:
    """List the pictures of a folder in VOC's layout; ``None`` if it has another.

    Args:
        root: a folder.
        name: which lists, where there are several (``aug``).

    Raises:
        ValueError: if lists, masks or classes are missing, damaged or at odds.
    """
    if not (root / LISTS).is_dir() and not (root / MASKS).is_dir():
        if inner := sorted(root.glob(f"*/{LISTS}")):
            raise ValueError(
                f"'{root}' holds sets of pictures and masks: give one, as '{inner[0].parents[1]}'"
            )
        return None
    lists = {split: _list(root, split, name) for split in SPLITS}
    pairs = _pair(root, lists, name)
    pictures = [picture for split in pairs.values() for picture, _ in split]
    labels = _read_labels(root / LABELS)
    classes = _classes(root, labels, pictures)
    if not (palette := labels.get("palette")):
        palette = _palette(root / pairs["train"][0][1], len(classes))
    elif len(palette) != len(classes):
        raise ValueError(
            f"{root / LABELS} has {len(palette)} colours for {len(classes)} classes: expected one "
            "for each"
        )
    return Found(classes, Masks(palette, labels.get("ignore_index", IGNORE_INDEX)), pairs)


def voc_palette(count: int) -> list[list[int]]:
    """Return VOC's colours: the bits of a class's number, dealt to red, green and blue in turn.

    Example:
        >>> voc_palette(3)
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    return [
        [sum((n >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]
        for n in range(count)
    ]


def describe(
    root: Path, classes: Sequence[str], masks: Masks, ids: Mapping[str, Sequence[str]]
) -> None:
    """Write lists, ``classes.txt`` and ``labels.json`` of a set in VOC's layout.

    Args:
        root: its folder.
        classes: names in the order of the masks' numbers.
        masks: what its masks have in common.
        ids: of each split.
    """
    (root / LISTS).mkdir(parents=True, exist_ok=True)
    for split, names in ids.items():
        (root / LISTS / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (root / CLASSES).write_text("".join(f"{name}\n" for name in classes))
    labels = {"palette": [list(c) for c in masks.palette], "ignore_index": masks.ignore_index}
    (root / LABELS).write_text(f"{json.dumps(labels)}\n")


def _list(root: Path, split: str, name: str | None) -> str:
    """Return where the list of a split is, or should be; only training's must have the name."""
    stems = [f"{split}_{name}", f"{split}{name}"] if name else [split]
    paths = [f"{LISTS}/{stem}.txt" for stem in stems]
    if split != "train":
        paths.append(f"{LISTS}/{split}.txt")
    return next((path for path in paths if (root / path).is_file()), paths[0])


def _pair(
    root: Path, lists: dict[str, str], name: str | None
) -> dict[str, list[tuple[Path, Path]]]:
    """Return the pictures of each list with their masks."""
    pictures = {_id(path): path for path in _below(root, find_images(root / PICTURES))}
    listed: Paths = read_lists(
        root, lists, lambda line: pictures.get(line, Path(PICTURES, line)), "an id"
    )
    folders = [MASKS, *([f"{MASKS}{name.capitalize()}"] if name else [])]
    there = {
        _id(path): path
        for folder in reversed(folders)
        if (root / folder).is_dir()
        for path in _below(root, find_images(root / folder))
        if path.suffix.lower() == ".png"
    }
    pairs = {}
    for split, paths in listed.items():
        bare = [path for path in paths if _id(path) not in there]
        if split == "test" and len(bare) == len(paths):
            continue
        if bare:
            raise ValueError(
                f"no mask {root / folders[-1] / _id(bare[0])}.png of '{bare[0]}', which "
                f"{root / lists[split]} names"
            )
        pairs[split] = [(path, there[_id(path)]) for path in paths]
    return pairs


def _below(root: Path, files: list[Path]) -> list[Path]:
    return [file.relative_to(root) for file in files]


def _id(path: Path) -> str:
    """Return what lists call ``JPEGImages/ID.jpg`` and its mask."""
    return Path(*path.parts[1:]).with_suffix("").as_posix()


def _classes(root: Path, labels: dict[str, Any], pictures: list[Path]) -> list[str]:
    """Return the classes of a set that has these pictures."""
    file, named = root / CLASSES, labels.get("classes")
    if not file.is_file():
        if named:
            return _check_classes(root / LABELS, named)
        if all(VOC_ID.fullmatch(picture.stem) for picture in pictures):
            return list(VOC_CLASSES)
        raise ValueError(f"no {file}: write one, the name of a class on each line, 0 first")
    names = [line.strip() for line in _read_text(file).strip().splitlines()]
    _check_classes(file, names)
    if named and named != names:
        raise ValueError(
            f"{root / LABELS} names the classes {', '.join(named)[:80]} and {file} "
            f"{', '.join(names)[:80]}: correct one of them"
        )
    return names


def _check_classes(file: Path, names: list[str]) -> list[str]:
    if not all(names) or not names:
        raise ValueError(f"{file} has an empty line: expected the name of a class on each line")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{file} names '{name}' {times} times: expected each class once")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{file} names {len(names)} classes: expected at most {MAX_CLASSES}")
    return names


def _read_labels(file: Path) -> dict[str, Any]:
    """Return what ``labels.json`` says of classes, palette and ignore_index."""
    if not file.is_file():
        return {}
    try:
        raw = json.loads(_read_text(file))
        good = isinstance(raw, dict)
        labels = {key: raw[key] for key in ("classes", "palette", "ignore_index") if key in raw}
        names, values = labels.get("classes", []), [labels.get("ignore_index", 0)]
        for red, green, blue in labels.get("palette", []):
            values += [red, green, blue]
        good &= isinstance(names, list) and all(isinstance(name, str) for name in names)
        good &= all(type(value) is int and 0 <= value <= 255 for value in values)
    except (RecursionError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f'damaged {file}: expected {{"palette": [[red, green, blue], ...], "ignore_index": '
            "255}, numbers from 0 to 255"
        )
    return labels


def _read_text(file: Path) -> str:
    if file.stat().st_size > MAX_TEXT:
        raise ValueError(f"{file} is larger than {MAX_TEXT} bytes")
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8") from error


def _palette(mask: Path, count: int) -> list[list[int]]:
    """Return the colours of ``mask``, or VOC's where it has none but greys."""
    colours, known = read_palette(mask)[:count], voc_palette(count)
    if colours == [[n] * 3 for n in range(len(colours))]:
        colours = []
    return colours + known[len(colours) :]
