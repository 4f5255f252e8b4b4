"""Labels and keys of a shard: ``NAME.targets.tar``, beside its bitstreams.

A member ``KEY.json.bz2`` for each block: ``{"samples": [[label, key], ...]}``, in the order of the
block. They stand apart so that relabelling rewrites no bitstream.

In sets with masks a member ``KEY.masks`` follows each of them: n lengths of 4 bytes, little endian,
and n 8-bit grey PNGs of the pictures' sizes (``mask_blocks.py``). Labels are then -1: the classes
of the index are those of pixels.
"""

import bz2
import json
from collections.abc import Sequence

from cdinfer.data.index import reason

#: Bytes of targets that one sample may take, uncompressed; paths have at most 4096.
MAX_TARGET = 2**14


def targets_name(name: str) -> str:
    """Return the file name of targets called ``name``."""
    return f"{name}.targets.tar"


def pack_targets(rows: Sequence[tuple[int, str]]) -> bytes:
    """Return a member from label and key of every sample of a block."""
    text = json.dumps({"samples": rows}, separators=(",", ":"))
    return bz2.compress(text.encode())


def read_targets(data: bytes, count: int, num_classes: int) -> list[tuple[int, str]]:
    """Return label and key of every sample of one block.

    Args:
        data: a member of a targets' tar.
        count: samples in the block.
        num_classes: 0 where samples have no labels, or masks instead; labels are then -1.

    Raises:
        ValueError: if they are damaged or too large.
    """
    known = range(num_classes) if num_classes else (-1,)
    try:
        unpacker = bz2.BZ2Decompressor()
        rows = json.loads(unpacker.decompress(data, count * MAX_TARGET))["samples"]
        if not unpacker.eof or len(rows) != count:
            raise ValueError(f"expected {count} samples")
        targets = [(int(label), str(key)) for label, key in rows]
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(reason(error)) from error
    if strange := {label for label, _ in targets}.difference(known):
        raise ValueError(f"no class has number {strange.pop()}")
    return targets
