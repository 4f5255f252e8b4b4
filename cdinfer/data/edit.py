"""Sets that change: other labels, samples that go. ``merge.py`` has sets that grow.

    lock --> new tars, under new names --> index.json renamed: the change --> old tars removed

One renaming is the change. Before it readers see the old set, after it the new one, whenever the
process is killed; what it leaves behind the next change removes. A reader that has a set open goes
on with the tars it has mapped, or is told to open the set again.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from shutil import rmtree
from typing import Any

from cdinfer.data.index import NAME, Index, read_index, read_raw, write_index
from cdinfer.data.layout import Item, suggest
from cdinfer.data.lock import locked
from cdinfer.data.reader import Reader
from cdinfer.data.targets import targets_name
from cdinfer.data.writer import Encoded, Made, Rows, pack_shard, pack_targets_tar, publish

#: Called with the number of samples just read.
Progress = Callable[[int], object]

#: Folders in which an append exports; they start so.
STAGING = ".append-"

#: Lists in an entry that name pictures which are not in the set, or are worse than wanted.
LISTS = ("skipped", "below")


class Edit:
    """A set that is being changed; nothing is before `commit`.

    Attributes:
        root: folder of the set.
        raw: the content of ``index.json``, to be changed.
        index: what readers see of it until then.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        _, self.raw, self.index = read_raw(root)

    @property
    def splits(self) -> dict[str, list[dict[str, Any]]]:
        """The entries of all shards, by split, to be changed."""
        splits: dict[str, list[dict[str, Any]]] = self.raw["splits"]
        return splits

    def add_classes(self, names: Iterable[str], new: bool) -> list[str]:
        """Return the classes of the set, those of ``names`` that it has not behind the others.

        Raises:
            ValueError: if some are missing and ``new`` does not allow for that.
        """
        classes: list[str] = self.raw["classes"]
        for name in dict.fromkeys(names):
            if name not in classes and not new:
                hint = suggest(name, classes) or f": it has {', '.join(classes) or 'none'}"
                raise ValueError(
                    f"no class '{name}' in '{self.root}'{hint}; --new-classes adds what is missing"
                )
            if name not in classes:
                classes.append(name)
        return classes

    def write(self, made: Made) -> None:
        """Write new tars. Their names must be new."""
        assert not any((self.root / name).exists() for name in made.files), made.entry["name"]
        publish(self.root, made)

    def commit(self) -> None:
        """Make the change, then remove the tars that it leaves behind.

        Raises:
            OSError: if the index cannot be written; nothing was changed.
            ValueError: if the change was made, but what it leaves behind cannot be removed.
        """
        self.raw["edits"] = self.raw.get("edits", 0) + 1
        write_index(self.root, self.raw)
        try:
            sweep(self.root, read_index(self.root))
        except OSError as error:
            raise ValueError(
                f"the change was made, but '{error.filename}' could not be removed "
                f"({error.strerror}): remove it"
            ) from error


@contextmanager
def editing(root: Path, keep: str = "") -> Iterator[Edit]:
    """Hold the set in ``root`` for one change; what an interrupted one left is removed first.

    Args:
        root: folder of the set.
        keep: name of a folder of an interrupted append that goes on.

    Raises:
        ValueError: if there is no set, or another process writes it.
    """
    read_index(root)  # where there is none, not even a lock is written
    with locked(root):
        edit = Edit(root)
        sweep(root, edit.index, keep)
        yield edit


def leftovers(root: Path, index: Index) -> list[Path]:
    """Return what interrupted changes left in the folder of a set: tars, files, folders."""
    shards = [shard for split in index.splits.values() for shard in split.shards]
    used = {name for shard in shards for name in shard.tars}
    tars = [path for path in root.glob("[!.]*.tar") if path.name not in used]
    ours = [path for path in tars if NAME.fullmatch(re.sub(r"(\.targets)?\.tar$", "", path.name))]
    return sorted([*ours, *root.glob(".*.partial"), *root.glob(f"{STAGING}*")])


def sweep(root: Path, index: Index, keep: str = "") -> None:
    """Remove what interrupted changes left, but not the folder called ``keep``."""
    for path in leftovers(root, index):
        if path.is_dir() and path.name != keep:
            rmtree(path)
        elif path.is_file():
            path.unlink()


def relabel(
    root: Path,
    labels: Mapping[str, str],
    new_classes: bool = False,
    progress: Progress = lambda count: None,
) -> int:
    """Give samples other classes; no bitstream is rewritten.

    Args:
        root: folder of the set.
        labels: key of a picture -> name of its class.
        new_classes: let names be new: they come behind those of the set, in the order of
            ``labels``, so that the numbers of the others stay.
        progress: called with the number of samples just read.

    Returns:
        How many samples have another class now.

    Raises:
        ValueError: if a key or, without ``new_classes``, a class is not in the set, or a set
            without classes gets them for some samples only, or classes are those of pixels.
    """
    with editing(root) as edit:
        if edit.index.masks is not None:
            raise ValueError(
                f"'{root}' has masks, and its classes are those of pixels: correct the masks, then "
                "cdinfer shards delete the pictures and append them again"
            )
        classes = edit.add_classes(labels.values(), new_classes)
        numbers = {name: number for number, name in enumerate(classes)}
        wanted = {key: numbers[name] for key, name in labels.items()}
        missing, changed, made = dict.fromkeys(wanted), 0, list[Made]()
        for split, entries in edit.splits.items():
            for place, _, blocks in read_rows(Reader(root, edit.index, split), progress):
                new = [[(wanted.get(key, label), key) for label, key in rows] for rows in blocks]
                for label, key in chain(*new):
                    missing.pop(key, None)
                    if label < 0 and classes:
                        raise ValueError(
                            f"'{root}' has no classes yet, and '{key}' would have none: name one "
                            "for every picture"
                        )
                if new != blocks:
                    made.append(_with_targets(entries[place], new))
                    entries[place] = made[-1].entry
                    pairs = zip(chain(*new), chain(*blocks), strict=True)
                    changed += sum(one != other for one, other in pairs)
        _refuse_missing(root, list(missing))
        for one in made:
            edit.write(one)
        if changed or classes != edit.index.classes:
            edit.commit()
    return changed


def delete(root: Path, keys: Iterable[str], progress: Progress = lambda count: None) -> int:
    """Remove samples: no reader sees them again, and no tar holds their bits.

    Only the shards that hold them are rewritten. Their ``source_bytes`` become a share of what
    they were, since sizes of single pictures are not kept. Keys of pictures that the export left
    out go from the lists of the index that name them.

    Args:
        root: folder of the set.
        keys: paths of pictures below the exported folder.
        progress: called with the number of samples just read.

    Returns:
        How many samples are gone; pictures that were only listed do not count.

    Raises:
        ValueError: if a key is not in the set, or a block in which one lies is damaged.
    """
    with editing(root) as edit:
        unwanted, hits = dict.fromkeys(keys), dict[tuple[str, int], tuple[int, list[Rows]]]()
        missing = dict(unwanted)
        for split in edit.splits:
            for place, first, blocks in read_rows(Reader(root, edit.index, split), progress):
                if hit := [key for _, key in chain(*blocks) if key in unwanted]:
                    hits[split, place] = first, blocks
                    for key in hit:
                        missing.pop(key, None)
        rows = [row for entries in edit.splits.values() for one in entries for row in listed(one)]
        named = unwanted.keys() & {row[0] for row in rows}
        _refuse_missing(root, [key for key in missing if key not in named])
        gone = 0
        for (split, place), (first, blocks) in hits.items():
            reader = Reader(root, edit.index, split)
            rest = [
                Encoded(
                    Item(key, label),
                    reader.block(number)[i],
                    reader.entries[number][2][-2:],
                    reader.masks(number)[i] if reader.index.masks is not None else b"",
                )
                for number, rows in enumerate(blocks, first)
                for i, (label, key) in enumerate(rows)
                if key not in unwanted
            ]
            gone += sum(map(len, blocks)) - len(rest)
            edit.splits[split][place] = _rewrite(edit, edit.splits[split][place], rest)
        for split, entries in edit.splits.items():
            edit.splits[split] = [entry for entry in entries if entry["count"]]
            for entry in edit.splits[split]:  # keys stand there too
                for name in LISTS:
                    entry[name] = [row for row in entry.get(name, []) if row[0] not in unwanted]
        if gone or named:
            edit.commit()
    return gone


def listed(entry: dict[str, Any]) -> list[list[Any]]:
    """Return what the lists of an entry name: key, and why or how bad it is."""
    return [row for name in LISTS for row in entry.get(name, [])]


def read_rows(reader: Reader, progress: Progress) -> Iterator[tuple[int, int, list[Rows]]]:
    """Yield of each shard its place, the number of its first block, its blocks' targets.

    Raises:
        ValueError: if they are damaged.
    """
    first = 0
    for place, shard in enumerate(reader.shards):
        blocks = [reader.targets(number) for number in range(first, first + len(shard.blocks))]
        yield place, first, blocks
        progress(sum(map(len, blocks)))
        first += len(blocks)


def _with_targets(entry: dict[str, Any], blocks: list[Rows]) -> Made:
    """Return an entry with other targets, which are all that is to be written."""
    name = _renamed(entry)
    tar, sums, places = pack_targets_tar(entry["name"], blocks, None)
    return Made(entry | {"targets_name": name, **sums, **places}, {targets_name(name): tar})


def _rewrite(edit: Edit, entry: dict[str, Any], rest: list[Encoded]) -> dict[str, Any]:
    """Write what is left of a shard and return its entry."""
    if not rest:
        return {"count": 0}
    index = edit.index
    labelled = index.num_labels > 0
    made = pack_shard(_renamed(entry), rest, edit.raw["block"], labelled, index.masks)
    edit.write(made)
    kept = {name: entry[name] for name in entry if name not in (*made.entry, "targets_name")}
    if "source_bytes" in kept:
        kept["source_bytes"] = round(kept["source_bytes"] * len(rest) / entry["count"])
    return made.entry | kept


def _renamed(entry: dict[str, Any]) -> str:
    """Return a name that no tar of a shard has or had."""
    names = (entry["name"], entry.get("targets_name", entry["name"]))
    parts = [NAME.fullmatch(name) for name in names]
    changes = [int(part[3] or 0) for part in parts if part]
    return f"{parts[0][1]}-{parts[0][2]}-{max(changes) + 1}"  # type: ignore[index]


def _refuse_missing(root: Path, keys: list[str]) -> None:
    if keys:
        more = f", nor {len(keys) - 1} more" if len(keys) > 1 else ""
        raise ValueError(
            f"no '{keys[0]}' in '{root}'{more}: give keys as they were exported, paths below the "
            "exported folder; nothing was changed"
        )
