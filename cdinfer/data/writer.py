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
from pathlib import Path
from typing import Any, NamedTuple

import webdataset

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.bitstream.container import parse
from cdinfer.data import blocks
from cdinfer.data.layout import Item
from cdinfer.data.targets import pack_targets, targets_name


class Encoded(NamedTuple):
    """One picture's bitstream with what belongs to it."""

    item: Item
    file: bytes
    latent_size: tuple[int, int]


class Made(NamedTuple):
    """A shard: its entry in the index, and the content of its files by name."""

    entry: dict[str, Any]
    files: dict[str, bytes]


def publish(folder: Path, made: Made) -> None:
    """Write the files of a shard, each whole or not at all."""
    for name, content in made.files.items():
        write_atomically(folder / name, content)


def pack_shard(name: str, encoded: list[Encoded], block: int, labelled: bool) -> Made:
    """Return one shard as it is to be written.

    Args:
        name: of the shard, as ``train-00000``.
        encoded: its pictures, in order.
        block: bitstreams in a block; 1 makes the plain layout, one sample a key.
        labelled: whether the plain layout gets labels.
    """
    groups = cut_blocks(encoded, block)
    entry: dict[str, Any] = {"name": name, "count": len(encoded)}
    entry["payload"] = sum(len(parse(e.file).payload) for e in encoded)
    if block == 1:
        tar, _ = pack_tar(_samples(name, groups, labelled))
        entry |= {"bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
        entry |= {"targets_bytes": 0, "blocks": [], "targets": []}
        return Made(entry, {f"{name}.tar": tar})
    keys = [f"{name}-{number:04d}" for number in range(len(groups))]
    grouped = list(zip(keys, groups, strict=True))
    data = {f"{key}.cdb": blocks.join([e.file for e in group]) for key, group in grouped}
    targets = {
        f"{key}.json.bz2": pack_targets([(e.item.label, e.item.key) for e in group])
        for key, group in grouped
    }
    tar, offsets = pack_tar(data)
    targets_tar, target_offsets = pack_tar(targets)
    entry |= {
        "bytes": len(tar),
        "sha256": hashlib.sha256(tar).hexdigest(),
        "targets_bytes": len(targets_tar),
        "targets_sha256": hashlib.sha256(targets_tar).hexdigest(),
        "blocks": [
            [*where, len(group), *group[0].latent_size]
            for where, group in zip(offsets, groups, strict=True)
        ],
        "targets": target_offsets,
    }
    return Made(entry, {f"{name}.tar": tar, targets_name(name): targets_tar})


def _samples(name: str, groups: list[list[Encoded]], labelled: bool) -> dict[str, bytes]:
    """Return the members of the plain layout: KEY.cdi, KEY.cls and KEY.json of every sample."""
    members = {}
    for number, (sample,) in enumerate(groups):
        key = f"{name}-{number:06d}"
        members[f"{key}.cdi"] = sample.file
        if labelled:
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
    end = sum(tarfile.BLOCKSIZE * (1 + -(-length // tarfile.BLOCKSIZE)) for _, length in offsets)
    return buffer.getvalue()[: end or 2 * tarfile.BLOCKSIZE], offsets
