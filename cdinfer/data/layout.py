"""Which pictures a folder holds, and how they are labelled and split.

    layout                                      read as
    index.json of cdinfer export                shards (see ``shards.py``)
    JPEGImages/, SegmentationClass/ and lists   pictures with masks (see ``voc.py``)
    lists of pictures                           labelled splits (see ``lists.py``)
    train/ [val/] [test/] with class folders    labelled splits
    train/ [val/] [test/] flat                  unlabelled splits (codecs)
    class folders                               labelled, one split
    pictures                                    unlabelled, one split (codecs)

Where there is no list or folder for validation, a fixed tenth of the training pictures serves:
those whose path hashes to 0 mod 10, so that a picture never changes sides when a set grows.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cdinfer.data.images import IMAGE_SUFFIXES, find_images
from cdinfer.data.lists import SPLITS, find_lists
from cdinfer.data.masks import Masks
from cdinfer.data.voc import find_voc

INDEX = "index.json"


class Item(NamedTuple):
    """One picture.

    Attributes:
        key: its path below the root, or what stands for one; no other picture has it.
        label: its class, or -1.
        place: where the set's source has it, unless that is a file of this name.
        mask: path of the file with the class of every pixel, below the root of the set; empty
            where pictures have none.
    """

    key: str
    label: int
    place: tuple[int, ...] = ()
    mask: str = ""


class Source(Protocol):
    """Where the pictures of a set lie. Worker processes get a copy."""

    def fetch(self, item: Item) -> Path | bytes | NDArray[np.uint8]:
        """Return a picture's file, the bytes of one, or its pixels ``(H, W, 3)``.

        Raises:
            ValueError: if it cannot be had.
        """
        ...


class Folder(NamedTuple):
    """Files below ``root``; keys are their paths."""

    root: Path

    def fetch(self, item: Item) -> Path:
        return self.root / item.key


class ImageSet(NamedTuple):
    """Pictures, labelled and split.

    Attributes:
        root: the folder that keys start from.
        classes: class names in label order; empty for unlabelled sets.
        splits: ``train``, ``val`` and ``test`` -> items; a split may be empty.
        source: what reads the items.
        masks: what their masks have in common; ``None`` where classes are of whole pictures.
    """

    root: Path
    classes: list[str]
    splits: dict[str, list[Item]]
    source: Source
    masks: Masks | None = None


def is_shards(root: Path) -> bool:
    """Tell whether ``root`` was written by ``cdinfer export``."""
    return (root / INDEX).is_file()


def find_pictures(root: Path, splits: str | None = None) -> ImageSet:
    """Recognise the layout of ``root`` and list its pictures.

    Args:
        root: a folder in one of the module's layouts.
        splits: which lists to use, where there are several: ``blocked`` reads
            ``splits/train_blocked.txt``, ``aug`` VOC's train_aug.txt; flags call it ``--splits``,
            or ``--data.splits``.

    Raises:
        ValueError: if the folder is missing or empty or lists are inconsistent.
    """
    if not root.is_dir():
        near = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        hint = suggest(root.name, near) or "; check the path"
        raise ValueError(f"expected a folder of pictures, got no folder '{root}'{hint}")
    if voc := find_voc(root, splits):
        items = {
            split: [Item(picture.as_posix(), -1, mask=mask.as_posix()) for picture, mask in pairs]
            for split, pairs in voc.pairs.items()
        }
        return ImageSet(root, voc.classes, complete(items), Folder(root), voc.masks)
    if lists := find_lists(root, splits):
        return _build(root, *lists)
    if splits:
        raise ValueError(f"no {root / 'splits' / f'train_{splits}.txt'}: give no --splits here")
    if (root / "train").is_dir():
        for other in sorted(p for p in root.iterdir() if p.is_dir() and p.name not in SPLITS):
            if not other.name.startswith(".") and find_images(other):
                raise ValueError(
                    f"'{other}' holds pictures beside '{root / 'train'}': expected only "
                    "train, val and test there; rename it or move it elsewhere"
                )
        folders = {s: find_images(root / s) for s in SPLITS if (root / s).is_dir()}
        return _build(root, {s: [p.relative_to(root) for p in f] for s, f in folders.items()}, 1)
    return _build(root, {"train": [p.relative_to(root) for p in find_images(root)]})


def _build(root: Path, paths: dict[str, list[Path]], depth: int = 0) -> ImageSet:
    """Label ``paths`` by their folder at ``depth`` and complete the splits."""
    everything = [path for split in paths.values() for path in split]
    if not paths.get("train"):
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"no training pictures in '{root}': expected files ending in {kinds}")
    labelled = [len(path.parts) > depth + 1 for path in everything]
    if any(labelled) and not all(labelled):
        stray = everything[labelled.index(False)]
        raise ValueError(f"'{root / stray}' lies outside the class folders of '{root}': move it")
    classes = sorted({path.parts[depth] for path in everything}) if all(labelled) else []
    label = {name: index for index, name in enumerate(classes)}
    items = {
        split: [Item(p.as_posix(), label[p.parts[depth]] if classes else -1) for p in paths_]
        for split, paths_ in paths.items()
    }
    return ImageSet(root, classes, complete(items), Folder(root))


def complete(items: dict[str, list[Item]]) -> dict[str, list[Item]]:
    """Return all splits in order, validation held out from training if it is missing."""
    train = items.get("train", [])
    if "val" not in items:
        train, val = hold_out(train)
        items = items | {"train": train, "val": val}
    return {split: items.get(split, []) for split in SPLITS}


def hold_out(items: Iterable[Item]) -> tuple[list[Item], list[Item]]:
    """Split ``items`` into training and validation by the hash of their keys.

    Example:
        >>> train, val = hold_out([Item(f"{i}.png", 0) for i in range(1000)])
        >>> len(train), len(val)
        (882, 118)
    """
    ranked = [(_rank(item.key), item) for item in items]
    chosen = {item.key for rank, item in ranked if rank % 10 == 0}
    if not 0 < len(chosen) < len(ranked):  # few pictures: one of them, unless it is the only one
        chosen = {min(ranked)[1].key} if len(ranked) > 1 else set()
    train = [item for _, item in ranked if item.key not in chosen]
    return train, [item for _, item in ranked if item.key in chosen]


def _rank(key: str) -> int:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape"))
    return int(digest.hexdigest()[:8], 16)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'X'?`` for the nearest of ``known``, or nothing.

    Example:
        >>> suggest("trian", ["train", "eval"])
        "; did you mean 'train'?"
    """
    import difflib

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean '{close[0]}'?" if close else ""
