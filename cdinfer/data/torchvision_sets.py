"""Data sets that torchvision knows: its classes find, check and label the pictures.

    torchvision:EuroSAT:ROOT
    torchvision:Places365,small=true:ROOT      options of the class, before the colon

ROOT is what torchvision calls so: the folder that holds ``eurosat/``. Splits of a class are used
as they are: ``train`` (``trainval``, ``train-standard``), ``val`` (``valid``) and ``test``; one
without labels is left out. Classes that ask for another split by name, as an option, give that
one alone. Sets with masks (``torchvision_masks.py``) have ``train`` and ``val``: what is there for
testing are pictures alone.

Pictures that are files are read as files, in the order of their paths. Others (STL10, MNIST)
count with the bytes of their pixels. Classes that read pickles are refused.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray

from cdinfer.data.layout import Folder, ImageSet, Item, complete, suggest
from cdinfer.data.torchvision_masks import find_masked, list_masked

#: Classes that unpickle what they read.
PICKLED = ("CIFAR10", "CIFAR100", "LSUN", "LSUNClass")

#: What classes call the option that names a split.
OPTIONS = ("split", "image_set")

#: Split -> the names that classes give it, best first.
NAMES = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val", "valid"),
    "test": ("test",),
}

#: Attributes that hold paths, or pairs of path and class; and those that hold classes.
FILES = ("samples", "imgs", "_samples", "_image_files", "_images", "data")
LABELS = ("targets", "_labels", "labels")


class Held(NamedTuple):
    """Pictures that are no files; an item's place is the number of its set, and its index."""

    sets: list[Any]

    def fetch(self, item: Item) -> NDArray[np.uint8]:
        number, index = item.place
        try:
            return np.array(self.sets[number][index][0].convert("RGB"))
        except Exception as error:  # nearly anything
            raise ValueError(f"cannot be read ({error})") from error


def read_torchvision(text: str, download: bool) -> ImageSet:
    """List the pictures of ``NAME[,OPTION=VALUE...]:ROOT``.

    Raises:
        ValueError: if torchvision has no such set, or cannot read it.
    """
    spelling, _, folder = text.partition(":")
    name, *options = spelling.split(",")
    if not folder:
        raise ValueError(
            f"torchvision:{text} has no folder: give torchvision:{name or 'NAME'}:ROOT"
        )
    kind = _find(name)
    given = dict(_option(option, kind) for option in options)
    root = Path(folder).expanduser()
    masked = find_masked(kind)
    choices = _arguments(kind, given if masked is None else given | masked.options)
    if masked is not None:
        choices.pop("test", None)
    sets = {}
    for split, arguments in choices.items():
        found = _open(kind, root, arguments, download, required=split == "train")
        if found is not None:
            sets[split] = found
    if masked is not None:
        return list_masked(masked, root, sets)
    listed = {split: _list(kind.__name__, found) for split, found in sets.items()}
    items: dict[str, list[Item]] = {}
    for number, (split, (files, labels)) in enumerate(listed.items()):
        if labels is None:  # as of ImageNet's and Places' test pictures
            if split == "train":
                raise ValueError(f"torchvision's {kind.__name__} has no single class a picture")
            continue
        if files is None:
            keys = [f"{split}/{index:07d}" for index in range(len(labels))]
            items[split] = [
                Item(key, label, (number, index))
                for index, (key, label) in enumerate(zip(keys, labels, strict=True))
            ]
        else:
            keys = [_key(file, root) for file in files]
            items[split] = sorted(Item(k, n) for k, n in zip(keys, labels, strict=True))
    count = 1 + max(item.label for part in items.values() for item in part)
    files_only = all(not item.place for part in items.values() for item in part)
    source = Folder(root) if files_only else Held(list(sets.values()))
    return ImageSet(root, _classes(sets["train"], count), complete(items), source)


def _find(name: str) -> Any:  # noqa: ANN401
    """Return torchvision's class of that name, in upper or lower case."""
    from torchvision import datasets

    known = {k.lower(): k for k in datasets.__all__ if inspect.isclass(getattr(datasets, k))}
    if name.lower() not in known:
        hint = suggest(name.lower(), known)
        for low, proper in known.items():
            hint = hint.replace(f"'{low}'", f"'{proper}'")
        raise ValueError(f"torchvision has no data set '{name}'{hint or ', such as EuroSAT'}")
    if known[name.lower()] in PICKLED:
        raise ValueError(
            f"torchvision unpickles {known[name.lower()]}, which could run what is in its files: "
            "save its pictures to class folders"
        )
    if known[name.lower()] == "SBDataset":
        raise ValueError(
            "SBDataset's masks are MATLAB files: save them as PNG in VOC2012/SegmentationClassAug, "
            "their list as VOC2012/ImageSets/Segmentation/trainaug.txt, and give VOC2012 and "
            "--splits aug"
        )
    return getattr(datasets, known[name.lower()])


def _option(text: str, kind: Any) -> tuple[str, Any]:  # noqa: ANN401
    """Return name and value of ``small=true``; what ``kind`` takes as text stays text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"expected an option like small=true behind the data set, got '{text}'")
    parameter = inspect.signature(kind).parameters.get(name)
    if parameter is not None and isinstance(parameter.default, str):
        return name, value
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    return name, int(value) if value.isdecimal() else value


def _arguments(kind: Any, given: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401
    """Return, for each split, the arguments to try in turn."""
    parameters = inspect.signature(kind).parameters
    for option in OPTIONS:
        if option in parameters and option not in given:
            return {s: [given | {option: name} for name in names] for s, names in NAMES.items()}
    if "train" in parameters and "train" not in given:
        return {s: [given | {"train": s == "train"}] for s in ("train", "test")}
    return {"train": [given]}


def _open(
    kind: Any,  # noqa: ANN401
    root: Path,
    choices: list[dict[str, Any]],
    download: bool,
    required: bool,
) -> Any:  # noqa: ANN401
    """Construct a data set with the first arguments whose split it knows; ``None``: none."""
    name = kind.__name__
    if download and "download" not in inspect.signature(kind).parameters:
        raise ValueError(f"torchvision cannot download {name}: fetch it yourself into '{root}'")
    flags = {"download": True} if download else {}
    reason = ""
    for arguments in choices:
        try:
            return kind(str(root), **arguments, **flags)
        except Exception as error:  # nearly anything, from its files and from the network
            reason = " ".join(str(error).split()) or repr(error)
            if any(f"for argument {option}" in reason for option in OPTIONS):
                continue
            if not download and "download=True" in reason:
                reason = "it is not there; --download fetches it, if you accept its licence"
            elif isinstance(error, URLError):
                reason += "; check the network, or put its files there yourself"
            raise ValueError(f"torchvision cannot read {name} in '{root}': {reason}") from error
    if required:
        raise ValueError(f"torchvision's {name} has no pictures for training: {reason}")
    return None


def _list(name: str, data: Any) -> tuple[list[Path] | None, list[int] | None]:  # noqa: ANN401
    """Return files and classes of a data set; ``None`` for what it does not tell."""
    try:
        count = len(data)
    except Exception as error:  # of its base class, or of one that reads no folder
        raise ValueError(
            f"torchvision's {name} finds no pictures in a folder: give a data set such as EuroSAT"
        ) from error
    files: list[Path] | None = None
    labels: Sequence[Any] | None = None
    for attribute in FILES:
        entries = getattr(data, attribute, None)
        if not isinstance(entries, list) or len(entries) != count or not entries:
            continue
        pairs = isinstance(entries[0], tuple)
        paths = [entry[0] for entry in entries] if pairs else entries
        if all(isinstance(path, str | Path) for path in paths):
            files = [Path(path) for path in paths]
            labels = [entry[1] for entry in entries] if pairs else None
            break
    for attribute in LABELS:
        if labels is None and len(getattr(data, attribute, ())) == count:
            labels = getattr(data, attribute)
    try:
        if labels is None:  # reads every picture, which only small sets make one do
            labels = [data[index][1] for index in range(count)]
        whole = [int(label) for label in labels]
    except (TypeError, ValueError):
        return files, None
    except Exception as error:  # of its pictures
        raise ValueError(f"torchvision cannot read {name}: {error}") from error
    return files, whole if min(whole, default=-1) >= 0 else None


def _key(file: Path, root: Path) -> str:
    """Return the path below ``root``."""
    return file.absolute().relative_to(root.absolute()).as_posix()


def _classes(data: Any, count: int) -> list[str]:  # noqa: ANN401
    """Return the names of at least ``count`` classes; several names of one are joined."""
    for attribute in ("classes", "categories"):
        names = getattr(data, attribute, ())
        if len(names) >= count:
            joined = [name if isinstance(name, str) else ", ".join(name) for name in names]
            if len(set(joined)) == len(joined):
                return joined
    return [str(number) for number in range(count)]
