"""Writing sets of latents; the layout is described in ``shards.py``.

    pictures --permute once, cut--> shards --encode--> blocks --tar--> DST/, index.json last

Shard i of a split is a fixed list of pictures, so an interrupted export resumes at the first
shard its index does not list, and ends byte-identical to an uninterrupted one (same machine,
precision and versions: encoding is floating point). Every file appears whole or not at all.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.codecs import CAE
from cdinfer.codecs.cae import Precision
from cdinfer.codecs.guard import measure
from cdinfer.codecs.zoo import copy_codec, read_codec
from cdinfer.data.images import as_tensor, read_image, resize_short_side
from cdinfer.data.index import FORMAT
from cdinfer.data.layout import INDEX, ImageSet, Item
from cdinfer.data.shards import targets_name
from cdinfer.data.writer import Encoded, write_shard

SEED = 0

#: Most pictures, and most pixels, that are encoded at once.
BATCH, BATCH_PIXELS = 16, 2**22


class Plan(NamedTuple):
    """What fixes every byte of a set, besides the pictures and the codec.

    Attributes:
        resize: short side in pixels to scale pictures to, or ``None``.
        block: bitstreams in a block; 1 writes one sample a key, for other readers.
        per_shard: pictures in a shard.
        precision: of the encoder.
        min_psnr: pictures whose reconstruction is worse are listed; in dB.
        drop: leave them out.
    """

    resize: int | None = None
    block: int = 512
    per_shard: int = 8192
    precision: Precision = "fp32"
    min_psnr: float | None = None
    drop: bool = False


class Unreadable(NamedTuple):
    """A picture that was left out, and why."""

    key: str
    reason: str


class Poor(NamedTuple):
    """A picture below the floor, and its PSNR in dB."""

    key: str
    psnr: float


def export(
    pictures: ImageSet,
    folder: Path,
    codec_folder: Path,
    plan: Plan,
    device: str = "cpu",
    skip_unreadable: bool = False,
    progress: Callable[[str, int], None] = lambda split, count: None,
) -> dict[str, Any]:
    """Write ``pictures`` as shards into ``folder`` and return the index.

    Args:
        pictures: from ``find_pictures``.
        folder: made if missing; an interrupted export of the same set is continued.
        codec_folder: folder of the trained codec; copied into the set.
        plan: how the set is cut.
        device: where to encode.
        skip_unreadable: leave out pictures that cannot be read instead of stopping.
        progress: called with a split and the number of pictures just encoded.

    Raises:
        ValueError: if a picture cannot be read, or ``folder`` holds something else.
    """
    codec = read_codec(codec_folder).to(device)
    codec.precision = plan.precision
    index = _new_index(pictures, codec, codec_folder, plan, device)
    done = _resume(folder, index)
    if not skip_unreadable:  # what was left out then is tried again, or named
        done = {name: entry for name, entry in done.items() if not entry["skipped"]}
    folder.mkdir(parents=True, exist_ok=True)
    if not done:
        _write_index(folder, index)  # first of all, so that readers know what this will be
        copy_codec(codec_folder, folder / "codec")
    for split, items in pictures.splits.items():
        order = np.random.default_rng(SEED).permutation(len(items))
        for number, start in enumerate(range(0, len(items), plan.per_shard)):
            chosen = [items[i] for i in order[start : start + plan.per_shard]]
            name = f"{split}-{number:05d}"
            if name in done:
                index["splits"][split].append(done[name])
                progress(split, len(chosen))
                continue
            skipped: list[Unreadable] = []
            below: list[Poor] = []
            encoded = []
            for batch in _read(pictures.root, chosen, plan, skip_unreadable, skipped):
                encoded += _compress(codec, batch, plan, below)
                progress(split, len(batch))
            progress(split, len(skipped))
            entry = write_shard(folder, name, encoded, plan.block, bool(pictures.classes))
            entry["source_bytes"] = sum(_size(pictures.root, e.item) for e in encoded)
            entry["skipped"] = [list(item) for item in skipped]
            entry["below"] = [list(item) for item in below]
            index["splits"][split].append(entry)
            _write_index(folder, index)
    if not any(entry["count"] for split in index["splits"].values() for entry in split):
        raise ValueError(
            f"none of the pictures in '{pictures.root}' can be read and kept: try without "
            "--on-error skip and --drop"
        )
    index["complete"] = True
    _write_index(folder, index)
    return index


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
        "preprocessing": {"resize": plan.resize, "crop": None},
        "block": plan.block,
        "per_shard": plan.per_shard,
        "seed": SEED,
        "encoder": {"device": device, "precision": plan.precision, "torch": torch.__version__},
        "floor": {"min_psnr": plan.min_psnr, "drop": plan.drop},
        "inputs": _fingerprint(pictures),
        "splits": {split: [] for split in pictures.splits},
    }


def _fingerprint(pictures: ImageSet) -> str:
    """Identify the list of inputs: a resumed export must go on with the same one."""
    lines = [f"{s}\t{i.key}\t{i.label}" for s, items in pictures.splits.items() for i in items]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _resume(folder: Path, index: dict[str, Any]) -> dict[str, dict[str, Any]]:
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
        changed = [
            key for key in index if key not in ("complete", "splits") and old[key] != index[key]
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
    return done


def _is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Tell whether the tars of an index entry lie in ``folder`` with their full length."""
    name = entry["name"]
    sizes = {folder / f"{name}.tar": entry["bytes"]}
    if entry["targets_bytes"]:  # the one-sample layout has no targets
        sizes[folder / targets_name(name)] = entry["targets_bytes"]
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())


Batch = list[tuple[Item, torch.Tensor]]


def _read(
    root: Path, items: Sequence[Item], plan: Plan, skip: bool, skipped: list[Unreadable]
) -> Iterator[Batch]:
    """Read ``items`` in order, in batches of neighbours of one size."""
    batch: Batch = []
    for item in items:
        path = root / item.key
        try:
            picture = read_image(path)
            if plan.resize is not None:
                picture = resize_short_side(picture, plan.resize)
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            if not skip:
                raise ValueError(
                    f"{path}: {reason}; --on-error skip leaves such pictures out"
                ) from error
            skipped.append(Unreadable(item.key, reason))
            continue
        x = as_tensor(picture)
        room = max(1, min(BATCH, BATCH_PIXELS // (x.shape[-2] * x.shape[-1])))
        if batch and (x.shape != batch[0][1].shape or len(batch) == room):
            yield batch
            batch = []
        batch.append((item, x))
    if batch:
        yield batch


def _compress(codec: CAE, batch: Batch, plan: Plan, below: list[Poor]) -> list[Encoded]:
    """Encode pictures of one size; those below the floor are added to ``below``."""
    x = torch.stack([image for _, image in batch]).to(codec.mean.device)
    size = (-(-x.shape[-2] // codec.stride), -(-x.shape[-1] // codec.stride))
    files = codec.compress(x)
    encoded = [Encoded(item, file, size) for (item, _), file in zip(batch, files, strict=True)]
    if plan.min_psnr is None:
        return encoded
    scores = measure(codec, x, files)
    poor = [score < plan.min_psnr for score in scores]
    below += [
        Poor(one.item.key, round(score, 3))
        for one, score, is_poor in zip(encoded, scores, poor, strict=True)
        if is_poor
    ]
    if plan.drop:
        return [one for one, is_poor in zip(encoded, poor, strict=True) if not is_poor]
    return encoded


def _size(root: Path, item: Item) -> int:
    return (root / item.key).stat().st_size


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    text = json.dumps(index, separators=(",", ":"))
    write_atomically(folder / INDEX, f"{text}\n".encode())
