"""One shard: encoded pictures -> blocks -> two reproducible tars.

Tars have fixed owners, modes and times and members in the order of the plan, so the same
bitstreams give the same bytes. They are written whole or not at all. They end with their last
member: readers take the end of the file for the end of a tar, and the two empty records that
usually follow would cost small sets half a percent.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import webdataset

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.bitstream.container import parse
from cdinfer.data import blocks
from cdinfer.data.layout import Item
from cdinfer.data.mask_blocks import colour_png, join_masks
from cdinfer.data.masks import Masks
from cdinfer.data.targets import pack_targets, targets_name

#: How masks of the plain layout end.
MASK = ".seg.png"

#: Label and key of every sample of a block.
Rows = list[tuple[int, str]]


class Encoded(NamedTuple):
    """One picture's bitstream with what belongs to it; ``mask`` as `mask_blocks` writes it."""

    item: Item
    file: bytes
    latent_size: tuple[int, int]
    mask: bytes | memoryview = b""


class Made(NamedTuple):
    """A shard: its entry in the index, and the content of its files by name."""

    entry: dict[str, Any]
    files: dict[str, bytes]


def publish(folder: Path, made: Made) -> None:
    """Write the files of a shard, each whole or not at all."""
    for name, content in made.files.items():
        write_atomically(folder / name, content)


def pack_shard(
    name: str, encoded: list[Encoded], block: int, labelled: bool, masks: Masks | None = None
) -> Made:
    """Return one shard as it is to be written.

    Args:
        name: of the shard, as ``train-00000``.
        encoded: its pictures, in order.
        block: bitstreams in a block; 1 makes the plain layout, one sample a key.
        labelled: whether the plain layout gets labels.
        masks: what masks of the set have in common, where it has them.
    """
    groups = cut_blocks(encoded, block)
    entry: dict[str, Any] = {"name": name, "count": len(encoded)}
    entry["payload"] = sum(len(parse(e.file).payload) for e in encoded)
    if block == 1:
        members = _samples(name, groups, labelled, masks)
        tar, _ = pack_tar(members)
        entry |= {"bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
        entry |= {"targets_bytes": 0, "blocks": [], "targets": []}
        if masks is not None:
            pngs = [len(data) for member, data in members.items() if member.endswith(MASK)]
            entry |= {"masks": [], "masks_bytes": _in_tar(pngs)}
        return Made(entry, {f"{name}.tar": tar})
    tar, offsets = pack_tar(
        {
            f"{name}-{number:04d}.cdb": blocks.join([e.file for e in group])
            for number, group in enumerate(groups)
        }
    )
    rows = [[(e.item.label, e.item.key) for e in group] for group in groups]
    joined = [join_masks([e.mask for e in group]) for group in groups]
    targets, sums, places = pack_targets_tar(name, rows, None if masks is None else joined)
    entry |= {
        "bytes": len(tar),
        "sha256": hashlib.sha256(tar).hexdigest(),
        **sums,
        "blocks": [
            [*where, len(group), *group[0].latent_size]
            for where, group in zip(offsets, groups, strict=True)
        ],
        **places,
    }
    return Made(entry, {f"{name}.tar": tar, targets_name(name): targets})


def pack_targets_tar(
    name: str, rows: list[Rows], masks: list[bytes] | None
) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Return the targets of a shard, and the sums and the places that its entry says of them.

    Args:
        name: of the shard.
        rows: of each block.
        masks: the member of each block's masks, where the set has them.
    """
    members: dict[str, bytes] = {}
    for number, block in enumerate(rows):
        members[f"{name}-{number:04d}.json.bz2"] = pack_targets(block)
        if masks is not None:
            members[f"{name}-{number:04d}.masks"] = masks[number]
    tar, places = pack_tar(members)
    sums = {"targets_bytes": len(tar), "targets_sha256": hashlib.sha256(tar).hexdigest()}
    if masks is None:
        return tar, sums, {"targets": places}
    size = _in_tar([len(member) for member in masks])
    return tar, sums, {"targets": places[::2], "masks": places[1::2], "masks_bytes": size}


def _samples(
    name: str, groups: list[list[Encoded]], labelled: bool, masks: Masks | None
) -> dict[str, bytes]:
    """Return the plain layout: KEY.cdi, KEY.cls or KEY.seg.png, and KEY.json of every sample."""
    members = {}
    for number, (sample,) in enumerate(groups):
        key = f"{name}-{number:06d}"
        members[f"{key}.cdi"] = sample.file
        if masks is not None:
            members[f"{key}{MASK}"] = colour_png(bytes(sample.mask), masks.palette)
        elif labelled:
            members[f"{key}.cls"] = str(sample.item.label).encode()
        members[f"{key}.json"] = json.dumps({"key": sample.item.key}).encode()
    return members


def cut_blocks(encoded: list[Encoded], size: int) -> list[list[Encoded]]:
    """Cut blocks of one latent size; sizes in the order they are first seen."""
    by_size: dict[tuple[int, int], list[Encoded]] = {}
    for item in encoded:
        by_size.setdefault(item.latent_size, []).append(item)
    return [
        group[start : start + size]
        for group in by_size.values()
        for start in range(0, len(group), size)
    ]


def pack_tar(members: dict[str, bytes]) -> tuple[bytes, list[list[int]]]:
    """Return a reproducible tar, and offset and length of its members."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False, mtime=0, user="", group="", mode=0o644) as tar:
        for name, data in members.items():
            key, extension = name.split(".", 1)
            tar.write({"__key__": key, extension: data})
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as written:
        offsets = [[member.offset_data, member.size] for member in written.getmembers()]
    end = _in_tar([length for _, length in offsets])
    return buffer.getvalue()[: end or 2 * tarfile.BLOCKSIZE], offsets


def _in_tar(lengths: Sequence[int]) -> int:
    """Return what members of these lengths take in a tar, with their headers."""
    return sum(tarfile.BLOCKSIZE * (1 + -(-length // tarfile.BLOCKSIZE)) for length in lengths)
