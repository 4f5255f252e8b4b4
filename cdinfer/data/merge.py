"""Sets that grow: by pictures, or by other sets.

    pictures --export, with the set's own codec and settings--> a set --\
    other sets -------------------------------------------------------- checks --> new shards

Shards that come get new numbers. ``edit.py`` says how a set changes at once.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import torch

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.codecs.stored import copy_codec
from cdinfer.data.edit import STAGING, Edit, Progress, editing, read_rows
from cdinfer.data.encoding import Plan
from cdinfer.data.export import describe_masks, export, fingerprint
from cdinfer.data.index import AUGMENTATIONS, NAME, Index, read_index, read_raw, write_index
from cdinfer.data.layout import ImageSet
from cdinfer.data.lock import LOCK, locked
from cdinfer.data.reader import REMEDY, Reader
from cdinfer.data.targets import targets_name
from cdinfer.data.unite import Classes, check_classes, unite
from cdinfer.data.writer import Made, Rows, pack_tar, pack_targets_tar


class Other(NamedTuple):
    """A set whose shards are to be copied: what its index says, raw and checked."""

    root: Path
    raw: dict[str, Any]
    checked: Index


def append(
    root: Path,
    pictures: ImageSet,
    new_classes: bool = False,
    skip_unreadable: bool = False,
    device: str = "cpu",
    progress: Callable[[str, int], None] = lambda split, count: None,
) -> dict[str, Any]:
    """Export ``pictures`` into new shards of a set, as the others were exported.

    The same append goes on where it was interrupted; another one starts anew.

    Args:
        root: folder of the set.
        pictures: from ``find_pictures`` or ``find_source``; their splits are those of the set.
        new_classes: let classes be new: they come behind those of the set.
        skip_unreadable: leave out pictures that cannot be read instead of stopping.
        device: where to encode.
        progress: called with a split and the number of pictures just encoded.

    Returns:
        The index of the new shards alone.

    Raises:
        ValueError: if a key is in the set already, a class is not, or a picture cannot be read.
    """
    items = [item for split in pictures.splits.values() for item in split]
    # What an export goes on with; codec and plan are those of the set.
    same = json.dumps([fingerprint(pictures), pictures.classes, device, torch.__version__])
    name = f"{STAGING}{hashlib.sha256(same.encode()).hexdigest()[:16]}"
    with editing(root, keep=name) as edit:
        _refuse_known(_keys(root, edit.index), (item.key for item in items), pictures.root)
        masks = describe_masks(pictures).get("masks")
        unite(edit, Classes(str(pictures.root), pictures.classes, masks), new_classes)
        raw, folder = edit.raw, root / name
        floor = raw.get("floor", {"min_psnr": None, "drop": False})
        plan = Plan(
            raw["preprocessing"]["resize"], raw["block"], raw["per_shard"],
            raw["encoder"]["precision"], floor["min_psnr"], floor["drop"],
        )  # fmt: skip
        index = export(pictures, folder, root / "codec", plan, device, skip_unreadable, progress)
        _add(edit, _read(folder), lambda count: None)
        edit.commit()
    return index


def merge(
    root: Path,
    others: Sequence[Path],
    target: Path | None = None,
    progress: Progress = lambda count: None,
) -> int:
    """Copy the shards of other sets behind those of a set; no bitstream is encoded again.

    Labels are united by name: those of ``root`` keep their numbers. Of masks, one list of classes
    has to begin with the other.

    Args:
        root: folder of the set.
        others: folders of the others.
        target: write the whole into this new folder, which appears when all is done, and leave
            ``root`` as it is.
        progress: called with the number of samples just copied.

    Returns:
        How many samples came.

    Raises:
        ValueError: if sets have other streams or preprocessing, a key in common, or classes that
            do not fit together.
    """
    found = [_read(other) for other in others]
    if target is None:
        with editing(root) as edit:
            _check(edit, found)
            count = sum(_add(edit, other, progress) for other in found)
            edit.commit()
        return count
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"'{target}' exists: give -o a new folder")
    read_index(root)  # where there is none, not even a lock is written
    with locked(root) if os.access(root, os.W_OK) else nullcontext():  # no one writes elsewhere
        source = Edit(root)
        _check(source, found)
        with _new_folder(target) as partial:
            _copy(source, partial)
            edit = Edit(partial)
            count = sum(_add(edit, other, progress) for other in found)
            edit.commit()
    return count


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder that becomes ``target``, or goes if that fails."""
    partial = target.with_name(f".{target.name}.partial")
    with locked(partial):
        for path in partial.iterdir():  # of one that was killed
            if path.name != LOCK:
                rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield partial
            partial.replace(target)
        except BaseException:
            rmtree(partial, ignore_errors=True)
            raise


def _read(root: Path) -> Other:
    return Other(root, *read_raw(root)[1:])


def _check(edit: Edit, others: Sequence[Other]) -> None:
    """Refuse sets that do not belong together."""
    mine, known = edit.index, _keys(edit.root, edit.index)
    longest = _classes(edit.root, edit.raw)
    for root, raw, index in others:
        if index.stream != mine.stream:
            raise ValueError(
                f"'{edit.root}' holds stream {mine.stream:08x} and '{root}' stream "
                f"{index.stream:08x}: sets of one codec can be merged; export the pictures again "
                f"with --codec {edit.root}"
            )
        for name, value in index.preprocessing.items():
            if value != mine.preprocessing[name]:
                raise ValueError(
                    f"'{edit.root}' was exported with {name} {mine.preprocessing[name]} and "
                    f"'{root}' with {name} {value}: export the pictures again"
                )
        if bool(index.classes) != bool(mine.classes):
            without = edit.root if index.classes else root
            raise ValueError(
                f"'{without}' has no classes and the other has: label it first with cdinfer "
                "shards relabel --new-classes"
            )
        check_classes(longest, _classes(root, raw))
        longest = max(longest, _classes(root, raw), key=lambda classes: len(classes.names))
        own = _keys(root, index)
        _refuse_known(known, own, root)
        known |= own


def _add(edit: Edit, other: Other, progress: Progress) -> int:
    """Write copies of all shards of ``other`` and enter them; return how many samples came."""
    unite(edit, _classes(other.root, other.raw), True)
    numbers = {name: number for number, name in enumerate(edit.raw["classes"])}
    label = [numbers[name] for name in other.checked.classes]
    proven = edit.raw.get("augmentations", AUGMENTATIONS)
    edit.raw["augmentations"] = [one for one in proven if one in other.checked.augmentations]
    count = 0
    for split, entries in other.raw["splits"].items():
        own = edit.splits.setdefault(split, [])
        parts = [NAME.fullmatch(entry["name"]) for entry in own]
        free = 1 + max((int(part[2]) for part in parts if part), default=-1)
        reader = Reader(other.root, other.checked, split)
        reader.check_files()
        for place, _, blocks in read_rows(reader, lambda count: None):
            rows = [[(-1 if i < 0 else label[i], key) for i, key in block] for block in blocks]
            made = _renamed(other.root, reader, place, entries[place], f"{split}-{free:05d}", rows)
            edit.write(made)
            own.append(made.entry)
            free += 1
            count += sum(map(len, rows))
            progress(sum(map(len, rows)))
    return count


def _renamed(
    root: Path, reader: Reader, place: int, entry: dict[str, Any], name: str, rows: list[Rows]
) -> Made:
    """Return a copy of a shard under another name and with other targets."""
    shard = reader.shards[place]
    data = _whole(root / shard.tars[0], entry["sha256"])
    targets = _whole(root / shard.tars[1], entry["targets_sha256"])
    masks = [targets[at : at + length] for at, length in shard.masks]
    blocks = {
        f"{name}-{number:04d}.cdb": data[block.offset : block.offset + block.length]
        for number, block in enumerate(shard.blocks)
    }
    tar, places = pack_tar(blocks)
    masked = reader.index.masks is not None
    targets, sums, target_places = pack_targets_tar(name, rows, masks if masked else None)
    new = {
        "name": name,
        "bytes": len(tar),
        "sha256": hashlib.sha256(tar).hexdigest(),
        **sums,
        "blocks": [[*where, *b[2:]] for where, b in zip(places, shard.blocks, strict=True)],
        **target_places,
    }
    kept = {field: entry[field] for field in entry if field != "targets_name"}
    return Made(kept | new, {f"{name}.tar": tar, targets_name(name): targets})


def _classes(root: Path, raw: dict[str, Any]) -> Classes:
    return Classes(str(root), raw["classes"], raw.get("masks"))


def _keys(root: Path, index: Index) -> set[str]:
    """Return the keys of all samples of a set."""
    return {
        key
        for split in index.splits
        for _, _, blocks in read_rows(Reader(root, index, split), lambda count: None)
        for rows in blocks
        for _, key in rows
    }


def _refuse_known(known: set[str], keys: Iterable[str], where: Path) -> None:
    if both := [key for key in keys if key in known]:
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise ValueError(
            f"'{min(both)}'{more} of '{where}' would be in the set twice: delete it there first, "
            "or leave it out; nothing was changed"
        )


def _whole(path: Path, digest: str) -> bytes:
    """Read a tar, and compare its checksum."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"damaged {path}: its sha256 is not that of the index; {REMEDY}")
    return data


def _copy(source: Edit, target: Path) -> None:
    """Copy a set, and nothing else of its folder; ``index.json`` comes last."""
    copy_codec(source.root / "codec", target / "codec")
    for split, entries in source.splits.items():
        for shard, entry in zip(source.index.splits[split].shards, entries, strict=True):
            for name, digest in zip(shard.tars, ("sha256", "targets_sha256"), strict=True):
                write_atomically(target / name, _whole(source.root / name, entry[digest]))
    write_index(target, source.raw)
