"""Writing sets of latents; the layout is described in ``shards.py``.

    pictures --permute once, cut--> shards --encode--> blocks --tar--> DST/, index.json last

Shard i of a split is a fixed list of pictures, so an interrupted export resumes with the shards
its index does not list, and ends byte-identical to an uninterrupted one (same machine, precision
and versions: encoding is floating point), in however many processes. Every file appears whole or
not at all, and one process writes at a time.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdinfer.codecs import CAE
from cdinfer.codecs.base import check_device
from cdinfer.codecs.stored import copy_codec, read_codec
from cdinfer.data.encoding import Job, Work
from cdinfer.data.encoding import Plan as Plan
from cdinfer.data.index import AUGMENTATIONS, FORMAT, write_index
from cdinfer.data.layout import INDEX, ImageSet, Item
from cdinfer.data.lock import locked
from cdinfer.data.pool import make_shards
from cdinfer.data.targets import targets_name
from cdinfer.data.writer import publish

SEED = 0

Entry = dict[str, Any]


def export(
    pictures: ImageSet,
    folder: Path,
    codec_folder: Path,
    plan: Plan,
    device: str = "cpu",
    skip_unreadable: bool = False,
    progress: Callable[[str, int], None] = lambda split, count: None,
    workers: int = 1,
    verify: bool = False,
) -> dict[str, Any]:
    """Write ``pictures`` as shards into ``folder`` and return the index.

    Args:
        pictures: from ``find_pictures`` or ``find_source``.
        folder: made if missing; an interrupted export of the same set is continued.
        codec_folder: folder of the trained codec; copied into the set.
        plan: how the set is cut.
        device: where to encode.
        skip_unreadable: leave out pictures that cannot be read instead of stopping.
        progress: called with a split and the number of pictures just encoded.
        workers: processes that make shards, each a whole one at a time.
        verify: decode every block, and compare it with what was encoded, before it is written.

    Raises:
        ValueError: if a picture cannot be read, or ``folder`` holds something else, or another
            process writes there, or there is no such device.
    """
    check_device(device)
    codec = read_codec(codec_folder)
    index = _new_index(pictures, codec, codec_folder, plan, device)
    jobs = [job for split, items in pictures.splits.items() for job in _cut(split, items, plan)]
    _resume(folder, index, jobs)  # where this set does not belong, not even a lock is written
    with locked(folder):
        done = _resume(folder, index, jobs)
        kept = set(done)
        if not skip_unreadable:  # what was left out then is tried again, or named
            kept = {name for name in done if not done[name]["skipped"]}
        if not done:
            _enter(folder, index, jobs, done)  # first, so that readers know what this will be
            copy_codec(codec_folder, folder / "codec")
        for job in jobs:
            if job.name in kept:
                progress(job.split, len(job.items))
        work = Work(
            pictures.root, pictures.source, len(pictures.classes), codec_folder, plan, device,
            skip_unreadable, verify, pictures.masks,
        )  # fmt: skip
        missing = [job for job in jobs if job.name not in kept]
        with closing(make_shards(work, codec, missing, workers, progress)) as shards:
            for shard in shards:
                if done.pop(shard.entry["name"], None):  # only now: a set that trained still does
                    _enter(folder, index, jobs, done)  # where what it left out still is unreadable
                publish(folder, shard)
                done[shard.entry["name"]] = shard.entry
                _enter(folder, index, jobs, done)
        if not any(entry["count"] for entry in done.values()):
            raise ValueError(
                f"none of the pictures in '{pictures.root}' can be read and kept: without "
                "--on-error skip one that cannot be read is named; a set exported without --drop "
                "keeps what is below its floor"
            )
        _enter(folder, index, jobs, done)
    return index


def _cut(split: str, items: list[Item], plan: Plan) -> list[Job]:
    """Return the shards of a split: which pictures each of them holds."""
    order = np.random.default_rng(SEED).permutation(len(items))
    return [
        Job(f"{split}-{number:05d}", [items[i] for i in order[start : start + plan.per_shard]])
        for number, start in enumerate(range(0, len(items), plan.per_shard))
    ]


def _enter(folder: Path, index: dict[str, Any], jobs: list[Job], done: dict[str, Entry]) -> None:
    """Write the index of the finished shards, in the order of the plan; complete if it is so."""
    splits: dict[str, list[Entry]] = {split: [] for split in index["splits"]}
    for job in jobs:
        if job.name in done:
            splits[job.split].append(done[job.name])
    full = len(done) == len(jobs) and any(entry["count"] for entry in done.values())
    index |= {"splits": splits, "complete": full}
    write_index(folder, index)


def _new_index(
    pictures: ImageSet, codec: CAE, codec_folder: Path, plan: Plan, device: str
) -> dict[str, Any]:
    weights = (codec_folder / "encoder.safetensors").read_bytes()
    return {
        "format": FORMAT,
        "complete": False,
        "codec": codec.name,
        "bpp": codec.bpp,
        "stream": f"{codec.stream:08x}",
        "weights": hashlib.sha256(weights).hexdigest(),
        "channels": codec.channels,
        "stride": codec.stride,
        "planes": list(codec.planes),
        "classes": pictures.classes,
        **describe_masks(pictures),
        "preprocessing": {"resize": plan.resize, "crop": None},
        "block": plan.block,
        "per_shard": plan.per_shard,
        "seed": SEED,
        "encoder": {"device": device, "precision": plan.precision, "torch": torch.__version__},
        "floor": {"min_psnr": plan.min_psnr, "drop": plan.drop},
        "augmentations": AUGMENTATIONS,
        "inputs": fingerprint(pictures),
        "splits": {split: [] for split in pictures.splits},
    }


def describe_masks(pictures: ImageSet) -> dict[str, Any]:
    """Return what the index says of masks; of a set without, nothing."""
    if pictures.masks is None:
        return {}
    palette = [[int(level) for level in colour] for colour in pictures.masks.palette]
    assert len(palette) == len(pictures.classes)
    return {"masks": {"palette": palette, "ignore_index": pictures.masks.ignore_index}}


def fingerprint(pictures: ImageSet) -> str:
    """Identify the list of inputs: a resumed export must go on with the same one."""
    lines = [f"{s}\t{i.key}\t{i.label}" for s, items in pictures.splits.items() for i in items]
    if pictures.masks is not None:
        lines += [item.mask for items in pictures.splits.values() for item in items]
        lines += [f"{value}\t{number}" for value, number in pictures.masks.numbers.items()]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _resume(folder: Path, index: dict[str, Any], jobs: list[Job]) -> dict[str, Entry]:
    """Return the finished shards of an earlier run of this export, by name."""
    path = folder / INDEX
    if not path.exists():
        held = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        if strange := [name for name in sorted(held) if not name.startswith(".")]:
            raise ValueError(f"'{folder}' is not empty (it holds {strange[0]}): choose another DST")
        return {}
    try:
        old = json.loads(path.read_bytes())
        entries = [entry for split in old["splits"].values() for entry in split]
        done = {entry["name"]: entry for entry in entries if _is_whole(folder, entry)}
        planned = {job.name for job in jobs}
        edited = [entry for entry in entries if "targets_name" in entry]
        edited += [entry for name, entry in done.items() if name not in planned]
        older = {"augmentations": AUGMENTATIONS, "masks": None} | old
        changed = [
            key for key in index if key not in ("complete", "splits") and older[key] != index[key]
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"damaged {path}: {error!r}; delete '{folder}' or choose another DST"
        ) from error
    if changed:
        raise ValueError(
            f"'{folder}' holds another export (its {changed[0]} differs): choose another DST, or "
            "delete it"
        )
    if edited or {*old} - {*index}:
        raise ValueError(
            f"'{folder}' was changed after its export (cdinfer shards): choose another DST"
        )
    return done


def _is_whole(folder: Path, entry: Entry) -> bool:
    """Tell whether the tars of an index entry lie in ``folder`` with their full length."""
    name = entry["name"]
    sizes = {folder / f"{name}.tar": entry["bytes"]}
    if entry["targets_bytes"]:  # the one-sample layout has no targets
        sizes[folder / targets_name(name)] = entry["targets_bytes"]
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
