"""Webdataset tars of pictures: where each one lies, found by reading headers alone.

A sample is a run of members of one key, which ends at the first dot of a file's name:

    0001.jpg .jpeg .png     the picture
    0001.cls                its class, a whole number; or
    0001.json               {"label": 3} (or "cls" or "class", or just 3)

Classes are called 0 to K-1, unless ``classes.txt`` beside the tars names them, one a line. Tars
whose names say train, val or test are those splits; if none do, all are for training.

Nothing is unpacked: pictures are read where they lie. Compressed tars are refused.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from webdataset.shardlists import expand_urls

from cdinfer.data.layout import ImageSet, Item, complete

PICTURES = (".jpg", ".jpeg", ".png")

#: Most bytes of a tar's header with its long names, of a label and of a picture file.
MAX_HEADER, MAX_LABEL, MAX_PICTURE = 2**16, 2**16, 2**30

#: Most classes.
MAX_CLASSES = 100_000

#: Words in the names of tars -> their split.
WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val"}
WORDS |= {"validation": "val", "test": "test", "testing": "test"}


class Tars(NamedTuple):
    """Pictures inside ``paths``; an item's place is the number of its tar, offset and length."""

    paths: list[Path]

    def fetch(self, item: Item) -> bytes:
        number, offset, length = item.place
        with self.paths[number].open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise ValueError(f"{self.paths[number]} has become shorter: start again")
        return data


def read_tars(pattern: str) -> ImageSet:
    """List the pictures of the tars that ``pattern`` names.

    Args:
        pattern: a path, with ``{000..146}`` or ``*`` in it for several.

    Raises:
        ValueError: if there are none, or one is damaged or has no labels.
    """
    paths = _find(pattern)
    root = paths[0].parent
    words = [_split(path) for path in paths]
    if any(words) and not all(words):
        odd = paths[words.index(None)]
        raise ValueError(f"'{odd}' does not say which split it is, as others do: rename it")
    items: dict[str, list[Item]] = {}
    for number, path in enumerate(paths):
        found = [
            Item(f"{path.name}/{name}", label, (number, offset, length))
            for name, label, offset, length in _read_tar(path)
        ]
        items.setdefault(words[number] or "train", []).extend(found)
    if not items.get("train"):
        raise ValueError(f"no tars for training in '{pattern}': expected some, named train")
    labels = [item.label for part in items.values() for item in part]
    return ImageSet(root, _classes(root, max(labels) + 1), complete(items), Tars(paths))


def _find(pattern: str) -> list[Path]:
    try:
        urls = expand_urls(pattern)
    except ValueError as error:
        raise ValueError(
            f"'{pattern}': {error}; expected one like train-{{000..146}}.tar"
        ) from error
    paths = [Path(p) for u in urls for p in (sorted(glob(u)) if has_magic(u) else [u])]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise ValueError(
            f"no tar '{missing[0] if missing else pattern}': check the path; tars elsewhere must "
            "be fetched first"
        )
    if len({path.parent for path in paths}) > 1 or len(set(paths)) < len(paths):
        raise ValueError(f"'{pattern}': expected different tars of one folder")
    return paths


def _split(path: Path) -> str | None:
    """Return the split that a tar's name speaks of."""
    words = [WORDS[w] for w in re.split(r"[^a-z]+", path.stem.lower()) if w in WORDS]
    return words[0] if words else None


def _classes(root: Path, count: int) -> list[str]:
    file = root / "classes.txt"
    if not file.is_file():
        return [str(number) for number in range(count)]
    try:
        with file.open(encoding="utf-8") as lines:
            names = [line.strip() for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: expected a class on each line") from error
    if len(names) < count or len(set(names)) < len(names):
        raise ValueError(f"{file} names {len(names)} classes: expected {count} different ones")
    return names


def _read_tar(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, label, offset and length of each picture of a tar."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for key, members in _samples(path, file):
            if key in seen:
                raise ValueError(f"{path} has '{key}' in several places: expected it once")
            seen.add(key)
            pictures = [m for m in members if m.name[len(key) :].lower() in PICTURES]
            if not pictures:
                continue
            if len(pictures) > 1 or pictures[0].size > MAX_PICTURE:
                raise ValueError(
                    f"{path}: '{key}' has {len(pictures)} pictures of {pictures[0].size} bytes: "
                    f"expected one of at most {MAX_PICTURE}"
                )
            label = _label(path, file, key, members)
            yield pictures[0].name, label, pictures[0].offset_data, pictures[0].size


def _samples(path: Path, file: BinaryIO) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    """Yield the members of each key."""
    key, members = "", list[tarfile.TarInfo]()
    for member in _members(path, file):
        name = member.name.rpartition("/")[2]
        if name.startswith("."):
            continue
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise ValueError(f"{path} holds '{member.name}': expected names that stay inside")
        stem = member.name[: len(member.name) - len(name)] + name.split(".")[0]
        if stem != key and members:
            yield key, members
            members = []
        key = stem
        members.append(member)
    if members:
        yield key, members


def _label(path: Path, file: BinaryIO, key: str, members: list[tarfile.TarInfo]) -> int:
    """Read the class of a sample."""
    for member in members:
        ending = member.name[len(key) :].lower()
        if ending not in (".cls", ".json"):
            continue
        file.seek(member.offset_data)
        data = file.read(min(member.size, MAX_LABEL + 1))
        try:
            value = json.loads(data) if len(data) <= MAX_LABEL else None
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            value = next((value[k] for k in ("label", "cls", "class") if k in value), None)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_CLASSES:
            return value
        if ending == ".cls" or value is not None:
            raise ValueError(
                f"{path}: {member.name} holds {data[:20]!r}: expected a class from 0 to "
                f"{MAX_CLASSES - 1}"
            )
    raise ValueError(f"{path}: no class of '{key}': expected {key}.cls, or \"label\" in {key}.json")


class _Headers:
    """A file of which ``tarfile`` reads headers alone: a longer read means a hostile one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files of a tar, which must be whole."""
    size = path.stat().st_size
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            end = 0
            while member := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if member.size < 0 or member.offset < end or member.offset_data <= member.offset:
                    raise tarfile.ReadError("its members overlap")
                end = member.offset_data
                if member.isreg():
                    end += member.size
                    if member.issparse() or end > size:
                        raise tarfile.ReadError(f"{member.name} is sparse or cut short")
                    yield member
            file.seek(tar.offset)
            while rest := file.read(MAX_HEADER):  # tarfile takes damage for the end
                if any(rest):
                    raise tarfile.ReadError(f"something else than members from byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        raise ValueError(
            f"damaged {path}: {error}; expected a tar that is whole and not compressed"
        ) from error
