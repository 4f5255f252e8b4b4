"""One shard: encoded pictures -> blocks -> two reproducible tars.

Tars have fixed owners, modes and times and members in the order of the plan, so the same
bitstreams give the same bytes. They are written whole or not at all. They end with their last
member: readers take the end of the file for the end of a tar, and the two empty records that
usually follow would cost small sets half a percent.
"""

import bz2
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
from cdinfer.data.shards import targets_name


class Encoded(NamedTuple):
    """One picture's bitstream with what belongs to it."""

    item: Item
    file: bytes
    latent_size: tuple[int, int]


def write_shard(
    folder: Path, name: str, encoded: list[Encoded], block: int, labelled: bool
) -> dict[str, Any]:
    """Write the tars of one shard and return its index entry.

    Args:
        folder: of the set.
        name: of the shard, as ``train-00000``.
        encoded: its pictures, in order.
        block: bitstreams in a block; 1 writes the plain layout, one sample a key.
        labelled: whether the plain layout gets labels.
    """
    groups = cut_blocks(encoded, block)
    entry: dict[str, Any] = {"name": name, "count": len(encoded)}
    entry["payload"] = sum(len(parse(e.file).payload) for e in encoded)
    if block == 1:
        return entry | _write_samples(folder, name, groups, labelled)
    data, targets = {}, {}
    for number, group in enumerate(groups):
        key = f"{name}-{number:04d}"
        data[f"{key}.cdb"] = blocks.join([e.file for e in group])
        rows = [[e.item.label, e.item.key] for e in group]  # in this order they pack best
        text = json.dumps({"samples": rows}, separators=(",", ":"))
        targets[f"{key}.json.bz2"] = bz2.compress(text.encode())
    offsets, size, digest = _write_tar(folder / f"{name}.tar", data)
    target_offsets, target_size, target_digest = _write_tar(folder / targets_name(name), targets)
    return entry | {
        "bytes": size,
        "sha256": digest,
        "targets_bytes": target_size,
        "targets_sha256": target_digest,
        "blocks": [
            [*where, len(group), *group[0].latent_size]
            for where, group in zip(offsets, groups, strict=True)
        ],
        "targets": target_offsets,
    }


def _write_samples(
    folder: Path, name: str, groups: list[list[Encoded]], labelled: bool
) -> dict[str, Any]:
    """Write the plain layout, one sample a key: KEY.cdi, KEY.cls and KEY.json."""
    members = {}
    for number, (sample,) in enumerate(groups):
        key = f"{name}-{number:06d}"
        members[f"{key}.cdi"] = sample.file
        if labelled:
            members[f"{key}.cls"] = str(sample.item.label).encode()
        members[f"{key}.json"] = json.dumps({"key": sample.item.key}).encode()
    _, size, digest = _write_tar(folder / f"{name}.tar", members)
    return {"bytes": size, "sha256": digest, "targets_bytes": 0, "blocks": [], "targets": []}


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


def _write_tar(path: Path, members: dict[str, bytes]) -> tuple[list[list[int]], int, str]:
    """Write a reproducible tar; return offset and length of its members, size and sha256."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False, mtime=0, user="", group="", mode=0o644) as tar:
        for name, data in members.items():
            key, extension = name.split(".", 1)
            tar.write({"__key__": key, extension: data})
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as written:
        offsets = [[member.offset_data, member.size] for member in written.getmembers()]
    end = sum(tarfile.BLOCKSIZE * (1 + -(-length // tarfile.BLOCKSIZE)) for _, length in offsets)
    content = buffer.getvalue()[: end or 2 * tarfile.BLOCKSIZE]
    write_atomically(path, content)
    return offsets, len(content), hashlib.sha256(content).hexdigest()
