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
        return _read(root, {split: f"splits/{split}{suffix}.txt" for split in SPLITS}), 0
    if (root / "images").is_dir() and any((root / "labels").glob("train*.txt")):
        words = {"train": "train", "val": "validate", "test": "test"}
        lists = {split: f"labels/{word}{name or ''}.txt" for split, word in words.items()}
        return _read(root, lists), 1
    if not name and (root / "resisc45-train.txt").is_file():
        return _read(root, {split: f"resisc45-{split}.txt" for split in SPLITS}, _resisc45), 1
    return None


def check_paths(root: Path, file: Path, paths: list[Path]) -> None:
    """Refuse paths that ``file`` names twice, that leave ``root`` or do not exist.

    Raises:
        ValueError: naming the first of them.
    """
    if not paths:
        raise ValueError(f"{file} is empty: expected a path on each line")
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file} names '{path}': expected a path inside {root}")
        if not (root / path).is_file():
            raise ValueError(f"{file} names '{path}', which is not in {root}: correct the list")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{file} names '{path}' {times} times: expected each picture once")


def _read(root: Path, lists: dict[str, str], place: Callable[[str], Path] = Path) -> Paths:
    """Read the lists that there are; that for training is a must."""
    files = {split: root / name for split, name in lists.items()}
    if not files["train"].is_file():
        raise ValueError(f"no {files['train']}: {_hint(files['train'].parent)}")
    paths = {split: _read_list(root, f, place) for split, f in files.items() if f.is_file()}
    for one, other in combinations(paths, 2):
        if both := set(paths[one]) & set(paths[other]):
            raise ValueError(f"{files[one]} and {files[other]} both name '{min(both)}'")
    return paths


def _hint(folder: Path) -> str:
    """Say which lists for training there are in ``folder``."""
    names = sorted(file.stem.removeprefix("train") for file in folder.glob("train*.txt"))
    flags = [f"--splits {name.lstrip('_')}" if name else "no --splits" for name in names]
    return f"give {' or '.join(flags)}" if flags else "write one, a path on each line"


def _read_list(root: Path, file: Path, place: Callable[[str], Path]) -> list[Path]:
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: expected a path on each line") from error
    paths = [place(line) for line in lines if line]
    check_paths(root, file, paths)
    return paths


def _resisc45(name: str) -> Path:
    """Return where ``storage_tank_001.jpg`` lies."""
    return Path(RESISC45, name.rpartition("_")[0], name)
