"""What ``cdinfer export`` can read: a name or a path -> pictures, labelled and split.

    SRC                                     read as
    folder                                  one of the layouts of ``layout.py`` and ``lists.py``
    list.csv                                path,label[,split] below a header; see below
    pictures.tar, 'train-{000..146}.tar'    webdataset tars (see ``tars.py``)
    torchvision:NAME[,OPTION=VALUE]:ROOT    a data set of torchvision (see ``torchvision_sets.py``)

Paths of a CSV start from its folder and may not leave it. Splits are called train, val and test;
without them, validation is held out as ``layout.py`` does.
"""

import csv
import string
from collections.abc import Iterator
from pathlib import Path

from cdinfer.data.layout import Folder, ImageSet, Item, complete, find_pictures, is_shards, suggest
from cdinfer.data.lists import SPLITS, check_paths

#: What stands in front of a data set of torchvision.
TORCHVISION = "torchvision:"

COLUMNS = ("path", "label", "split")


def find_source(text: str, splits: str | None = None, download: bool = False) -> ImageSet:
    """Recognise what ``text`` names and list its pictures.

    Args:
        text: as in the module's table.
        splits: which lists to use, for folders that have several.
        download: fetch a data set of torchvision that is not there.

    Raises:
        ValueError: if there is no such thing, or it is damaged or inconsistent.
    """
    named = text.lower().startswith(TORCHVISION)
    if download and not named:
        raise ValueError("--download fetches data sets of torchvision: give torchvision:NAME:ROOT")
    path = Path(text)
    if is_shards(path):
        raise ValueError(
            f"'{text}' is a set of shards already: give pictures, or cdinfer shards merge"
        )
    suffix = path.suffix.lower().rstrip("}")
    if not named and (path.is_dir() or suffix not in (".csv", ".tar")):
        return find_pictures(path, splits)
    if splits is not None:
        raise ValueError(f"--splits chooses lists of a folder: give no --splits with '{text}'")
    if named:
        from cdinfer.data.torchvision_sets import read_torchvision

        return read_torchvision(text[len(TORCHVISION) :], download)
    if suffix == ".csv":
        return read_csv(path)
    from cdinfer.data.tars import read_tars

    return read_tars(text)


def read_csv(file: Path) -> ImageSet:
    """List the pictures of a CSV file.

    Raises:
        ValueError: if a line is not what the header announces, or names no picture.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(_rows(file, csv.reader(lines, strict=True)))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}; check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8: {error}") from error
    root = file.parent
    check_paths(root, file, [path for path, _, _ in rows])
    classes = sorted({label for _, label, _ in rows}, key=_natural)
    number = {name: index for index, name in enumerate(classes)}
    items: dict[str, list[Item]] = {}
    for path, label, split in rows:
        items.setdefault(split, []).append(Item(path.as_posix(), number[label]))
    if "train" not in items:
        raise ValueError(f"{file} has no pictures for training: expected some of split train")
    return ImageSet(root, classes, complete(items), Folder(root))


def _rows(file: Path, lines: Iterator[list[str]]) -> Iterator[tuple[Path, str, str]]:
    """Yield path, label and split of each line below the header."""
    header = [name.strip().lower() for name in next(lines, [])]
    if sorted(header) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
        raise ValueError(
            f"{file} starts with '{','.join(header)[:80]}': expected a header path,label or "
            "path,label,split"
        )
    for number, cells in enumerate(lines, 2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(f"{file}, line {number}: expected {len(header)} cells, got {cells}")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        split = row.get("split", "train")
        if split not in SPLITS:
            hint = suggest(split, SPLITS)
            raise ValueError(
                f"{file}, line {number}: expected train, val or test, got '{split}'{hint}"
            )
        if not row["path"] or not row["label"]:
            raise ValueError(f"{file}, line {number}: expected a path and a label, got {cells}")
        yield Path(row["path"]), row["label"], split


def _natural(name: str) -> tuple[int, str]:
    """Order numbers by their value, before words."""
    digits = name.isascii() and set(name) <= set(string.digits)
    return (int(name), name) if digits and len(name) < 10 else (10**10, name)
