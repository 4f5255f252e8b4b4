"""Whether a set is what its index says: every sum, every count, every bitstream, every mask.

index, codec --> tars (length, sha256, no bytes beside the blocks) --> targets --> all decoded
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.bitstream.errors import BitstreamError
from cdinfer.codecs.cae import CAE
from cdinfer.data.blocks import Block
from cdinfer.data.edit import leftovers, listed
from cdinfer.data.index import ShardEntry, read_raw
from cdinfer.data.layout import INDEX
from cdinfer.data.mask_blocks import from_png
from cdinfer.data.reader import Damage, Reader, check_lengths, read_set_codec
from cdinfer.data.roundtrip import SYMBOLS

#: Bytes of a record of a tar.
RECORD = 512


class Fault(NamedTuple):
    """What is wrong; ``block`` is a number in the shard, None where it is not about a part."""

    shard: str | None
    block: int | None
    key: str | None
    fault: str


class Report(NamedTuple):
    """What was looked at, and what is wrong with it.

    ``leftovers`` are files of interrupted changes, which the next change removes.
    """

    shards: int
    blocks: int
    samples: int
    leftovers: list[str]
    faults: list[Fault]


def verify(
    root: Path,
    absent: Collection[str] = (),
    progress: Callable[[int], object] = lambda count: None,
) -> Report:
    """Read and decode all of a set.

    Args:
        root: folder of the set.
        absent: keys that must not be there any more, neither in the set nor in what interrupted
            changes left. Since every byte of every tar belongs to a sample that has a key, their
            bitstreams are not there either.
        progress: called with the number of samples just read.

    Raises:
        ValueError: if there is no set, or it was changed meanwhile.
    """
    try:
        text, raw, index = read_raw(root)
        codec = read_set_codec(root / "codec", index, str(root))
    except ValueError as error:
        if not (root / INDEX).is_file():
            raise
        return Report(0, 0, 0, [], [Fault(None, None, None, str(error))])
    seen = dict[str, str]()
    faults: list[Fault] = []
    for split, entries in raw["splits"].items():
        reader, first = Reader(root, index, split), 0
        for shard, entry in zip(reader.shards, entries, strict=True):
            numbers = range(first, first + len(shard.blocks))
            first = numbers.stop
            lengths = list(check_lengths(root, shard))
            faults += [Fault(shard.name, None, None, fault) for fault in lengths]
            if not lengths:
                faults += _check_sums(root, shard, entry)
                faults += _check_blocks(codec, reader, numbers, seen, progress)
    left = [path.name for path in leftovers(root, index)]
    faults += _check_absent(raw, absent, seen, left)
    with (root / INDEX).open("rb") as file:
        if file.read(len(text) + 1) != text:
            raise ValueError(f"'{root}' was changed while it was verified: verify it again")
    splits = index.splits.values()
    shards = [shard for split in splits for shard in split.shards]
    counts = sum(len(shard.blocks) for shard in shards), sum(split.samples for split in splits)
    return Report(len(shards), *counts, left, faults)


def _check_sums(root: Path, shard: ShardEntry, entry: dict[str, Any]) -> Iterator[Fault]:
    """Compare sums and counts, and look for bytes of a tar that belong to no block."""
    fields = "sha256", "targets_sha256"
    for name, field, places in zip(shard.tars, fields, shard.spans, strict=True):
        with (root / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry[field]:
            yield Fault(shard.name, None, None, f"{name}: its sha256 is not that of the index")
        end = 0
        for offset, length in places:
            if offset != end + RECORD:
                break
            end = offset + length + -length % RECORD
        if end != (root / name).stat().st_size and places:
            yield Fault(shard.name, None, None, f"{name}: has bytes that belong to no block")
    if entry["count"] != sum(block.samples for block in shard.blocks):
        fault = f"expected {entry['count']} samples, its blocks have another number"
        yield Fault(shard.name, None, None, fault)


def _check_blocks(
    codec: CAE,
    reader: Reader,
    numbers: range,
    seen: dict[str, str],
    progress: Callable[[int], object],
) -> Iterator[Fault]:
    """Decode the blocks of one shard; their keys are added to ``seen``, key -> shard."""
    for number in numbers:
        shard, place, entry = reader.entries[number]
        keys: list[str | None] = [None] * entry.samples
        try:
            keys = [key for _, key in reader.targets(number)]
        except Damage as error:
            yield Fault(shard.name, place, None, str(error))
        for key in keys:
            if key in seen:
                yield Fault(shard.name, place, key, f"in the set twice: in {seen[key]} as well")
            elif key is not None:
                seen[key] = shard.name
        try:
            block = reader.block(number)
        except Damage as error:
            yield Fault(shard.name, place, None, str(error))
            continue
        step = max(1, SYMBOLS // (codec.channels * entry.height * entry.width))
        for start in range(0, len(block), step):
            items = range(start, min(start + step, len(block)))
            for item, fault in _undecodable(codec, block, items):
                yield Fault(shard.name, place, keys[item], fault)
            progress(len(items))
        for bad, fault in _damaged_masks(reader, number, block):
            yield Fault(shard.name, place, None if bad is None else keys[bad], fault)


def _undecodable(codec: CAE, block: Block, items: range) -> Iterator[tuple[int, str]]:
    """Yield the files of a block that do not decode, and why."""
    try:
        codec.unpack([block.parsed(item, k) for k, item in enumerate(items)])
        return
    except BitstreamError:
        pass
    for item in items:
        try:
            codec.unpack([block.parsed(item, 0)])
        except BitstreamError as error:
            yield item, str(error)


def _damaged_masks(reader: Reader, number: int, block: Block) -> Iterator[tuple[int | None, str]]:
    """Yield the masks of a block that cannot be read, or no number where all cannot, and why."""
    index = reader.index
    if index.masks is None:
        return
    try:
        masks = reader.masks(number)
    except Damage as error:
        yield None, str(error)
        return
    for item, (height, width) in enumerate(block.sizes.tolist()):
        try:
            from_png(masks[item], (height, width), len(index.classes), index.masks.ignore_index)
        except ValueError as error:
            yield item, str(error)


def _check_absent(
    raw: dict[str, Any], absent: Collection[str], seen: dict[str, str], left: list[str]
) -> Iterator[Fault]:
    """Look for keys that must not be there, in targets and in what the index lists."""
    entries = [entry for entries in raw["splits"].values() for entry in entries]
    named = {row[0]: entry["name"] for entry in entries for row in listed(entry)}
    for key in absent:
        if key in seen:
            yield Fault(seen[key], None, key, "still in the set; cdinfer shards delete removes it")
        elif key in named:
            fault = "still named in index.json; cdinfer shards delete removes it"
            yield Fault(named[key], None, key, fault)
    if absent:
        for name in left:
            fault = f"{name} was left by an interrupted change; the next change removes it"
            yield Fault(None, None, None, fault)
