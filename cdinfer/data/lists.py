"""Lists of pictures that come with a folder: which are for training, validation and testing.

    lists                                     pictures
    splits/train[_NAME].txt, val, test        PATH below the folder; its first part is the class
    labels/trainN.txt, validateN, testN       images/CLASS/FILE (MINC-2500)
    resisc45-train.txt, -val, -test           NWPU-RESISC45/CLASS/FILE, listed as FILE (RESISC45)

A list names a picture a line, none twice, and none outside its folder.
"""

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

SPLITS = ("train", "val", "test")

#: Where RESISC45 unpacks to.
RESISC45 = "NWPU-RESISC45"

Paths = dict[str, list[Path]]


def find_lists(root: Path, name: str | None) -> tuple[Paths, int] | None:
    """Read the lists of ``root``.

    Args:
        root: a folder.
        name: which lists, where there are several: ``blocked`` reads ``train_blocked.txt``.

    Returns:
        The paths of each split below ``root``, and which of their parts is the class; ``None``
        if ``root`` has no lists.

    Raises:
        ValueError: if lists are missing, damaged or at odds.
    """
    if (root / "splits").is_dir() and any((root / "splits").glob("*.txt")):
        suffix = f"_{name}" if name else ""
        return read_lists(root, {split: f"splits/{split}{suffix}.txt" for split in SPLITS}), 0
    if (root / "images").is_dir() and any((root / "labels").glob("train*.txt")):
        words = {"train": "train", "val": "validate", "test": "test"}
        lists = {split: f"labels/{word}{name or ''}.txt" for split, word in words.items()}
        return read_lists(root, lists), 1
    if not name and (root / "resisc45-train.txt").is_file():
        return read_lists(root, {split: f"resisc45-{split}.txt" for split in SPLITS}, _resisc45), 1
    return None


def check_paths(root: Path, file: Path | str, paths: list[Path], line: str = "a path") -> None:
    """Refuse paths that ``file`` names twice, that leave ``root`` or do not exist.

    Args:
        root: the folder that paths start from.
        file: what names them, for errors.
        paths: what it names.
        line: what stands on each of its lines.

    Raises:
        ValueError: naming the first of them.
    """
    if not paths:
        raise ValueError(f"{file} is empty: expected {line} on each line")
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file} names '{path}': expected a path inside {root}")
        if not (root / path).is_file():
            raise ValueError(f"{file} names '{path}', which is not in {root}: correct the list")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{file} names '{path}' {times} times: expected each picture once")


def read_lists(
    root: Path, lists: dict[str, str], place: Callable[[str], Path] = Path, line: str = "a path"
) -> Paths:
    """Read the lists that there are; that for training is a must.

    Args:
        root: the folder of the set.
        lists: split -> path of its list below ``root``.
        place: makes a path below ``root`` of a line.
        line: what stands on each line, for errors.

    Raises:
        ValueError: if lists are missing, damaged or at odds.
    """
    files = {split: root / name for split, name in lists.items()}
    if not files["train"].is_file():
        raise ValueError(f"no {files['train']}: {_hint(files['train'].parent, line)}")
    paths = {split: _read_list(root, f, place, line) for split, f in files.items() if f.is_file()}
    for one, other in combinations(paths, 2):
        if both := set(paths[one]) & set(paths[other]):
            raise ValueError(f"{files[one]} and {files[other]} both name '{min(both)}'")
    return paths


def _hint(folder: Path, line: str) -> str:
    """Say which lists for training there are in ``folder``."""
    names = sorted(file.stem.removeprefix("train") for file in folder.glob("train*.txt"))
    names = [name for name in names if name != "val"]  # of trainval.txt, which is both
    flags = [f"--splits {name.lstrip('_')}" if name else "no --splits" for name in names]
    return f"give {' or '.join(flags)}" if flags else f"write one, {line} on each line"


def _read_list(root: Path, file: Path, place: Callable[[str], Path], line: str) -> list[Path]:
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: expected {line} on each line") from error
    paths = [place(text) for text in lines if text]
    check_paths(root, file, paths, line)
    return paths


def _resisc45(name: str) -> Path:
    """Return where ``storage_tank_001.jpg`` lies."""
    return Path(RESISC45, name.rpartition("_")[0], name)
