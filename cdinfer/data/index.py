"""``index.json``: what a set of shards is, checked before anything else of it is read.

    codec, bpp, stream, stride    what its latents are
    classes, preprocessing        what its labels and pictures are
    masks                         palette and ignore_index, where classes are those of pixels
    augmentations                 what networks may do to latents in training ("crop")
    splits                        the shards of each split, their blocks and where those lie

Blocks, not samples: the index of a thousand million pictures stays small. A changed set has new
files under new names (``train-00000-1``) and a new index, whose renaming is the change.
"""

import json
import os
import re
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.data.blocks import LEAST
from cdinfer.data.layout import INDEX
from cdinfer.data.lists import SPLITS
from cdinfer.data.mask_blocks import LEAST as LEAST_MASK
from cdinfer.data.masks import Masks

FORMAT = 1

#: Largest index that is read, in bytes; enough for a thousand million pictures.
MAX_INDEX = 2**27

#: No size, place or count, and no sum of them in a split, reaches this: they are held as int64.
LIMIT = 2**62

#: Of a shard, or of its targets: split, number and, once it was changed, a number of the change.
#: Other tars in the folder of a set are not ours.
NAME = re.compile(rf"({'|'.join(SPLITS)})-([0-9]{{5,}})(?:-([0-9]+))?")

#: Augmentations of sets whose index does not say which.
AUGMENTATIONS = ["crop"]


class BlockEntry(NamedTuple):
    """Where a block lies in its tar: ``offset`` and ``length`` in bytes; the latent size."""

    offset: int
    length: int
    samples: int
    height: int
    width: int


class ShardEntry(NamedTuple):
    """A pair of tars, named below the set's folder.

    Attributes:
        name: ``train-00000``, say.
        sizes: bytes of the tar and of its targets.
        blocks: in the order of the tar.
        targets: offset and length in bytes of each block's targets.
        targets_name: that of the targets; another one once the shard was relabelled.
        masks: offset and length in bytes of each block's masks, beside the targets; none in sets
            without.
    """

    name: str
    sizes: tuple[int, int]
    blocks: list[BlockEntry]
    targets: list[tuple[int, int]]
    targets_name: str
    masks: list[tuple[int, int]]

    @property
    def tars(self) -> tuple[str, str]:
        """File names of the bitstreams and of the targets."""
        return f"{self.name}.tar", f"{self.targets_name}.targets.tar"

    @property
    def spans(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Offset and length of what is in either tar; of a block's targets, then of its masks."""
        targets = self.targets
        if self.masks:
            targets = [span for pair in zip(targets, self.masks, strict=True) for span in pair]
        return [block[:2] for block in self.blocks], targets


class Split(NamedTuple):
    """All shards of a split and how many samples they hold."""

    samples: int
    shards: list[ShardEntry]


class Index(NamedTuple):
    """What a reader needs of ``index.json``."""

    bpp: float
    stream: int
    stride: int
    classes: list[str]
    preprocessing: dict[str, int | None]
    splits: dict[str, Split]
    augmentations: list[str]
    masks: Masks | None

    @property
    def num_labels(self) -> int:
        """Classes that whole samples may have: none where pixels have them."""
        return len(self.classes) if self.masks is None else 0

    def shards(self, split: str, name: str) -> list[ShardEntry]:
        """Return the shards of a split; ``name`` is that of the set, for errors.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"'{name}' has no split {split}, only {', '.join(self.splits)}")
        return self.splits[split].shards


class RawIndex(NamedTuple):
    """One reading of ``index.json``: its bytes, all that they say, what a reader needs of it."""

    text: bytes
    raw: dict[str, Any]
    checked: Index


def read_index(root: Path) -> Index:
    """Read and check ``index.json``.

    Raises:
        ValueError: if it is missing, damaged, not finished or of the one-sample layout.
    """
    return read_raw(root).checked


def read_raw(root: Path) -> RawIndex:
    """Read ``index.json`` once, for those who change or compare it, and check it.

    Raises:
        ValueError: as :func:`read_index`.
    """
    path = root / INDEX
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_INDEX:
                raise ValueError(f"larger than {MAX_INDEX} bytes")
            text = file.read(size)  # as much is allocated as is asked for
    except FileNotFoundError:
        raise ValueError(f"no shards in '{root}': cdinfer export makes them") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"damaged {path}: {reason(error)}; export the set again") from error
    return RawIndex(text, *_parse(text, str(root)))


def parse_index(text: bytes, root: str) -> Index:
    """Check the content of the ``index.json`` that lies in the folder or at the URL ``root``.

    Raises:
        ValueError: as :func:`read_index`.
    """
    return _parse(text, root)[1]


def write_index(root: Path, raw: dict[str, Any]) -> None:
    """Write ``index.json``, whole or not at all.

    Raises:
        OSError: if it cannot be written; the one before stays.
    """
    text = json.dumps(raw, separators=(",", ":"))
    write_atomically(root / INDEX, f"{text}\n".encode())


def _parse(text: bytes, root: str) -> tuple[dict[str, Any], Index]:
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {raw['format']!r}")
        masks = _read_masks(raw["masks"]) if "masks" in raw else None
        index = Index(
            float(raw["bpp"]),
            int(raw["stream"], 16),
            int(raw["stride"]),
            [str(name) for name in raw["classes"]],
            {key: _side(raw["preprocessing"][key]) for key in ("resize", "crop")},
            {str(name): _read_split(e, masks is not None) for name, e in raw["splits"].items()},
            [str(name) for name in raw.get("augmentations", AUGMENTATIONS)],
            masks,
        )
        if masks is not None and not 0 < len(masks.palette) == len(index.classes):
            raise ValueError(
                f"expected a colour for each of {len(index.classes)} classes of masks, got "
                f"{len(masks.palette)}"
            )
        if not 0 < index.stride < LIMIT:
            raise ValueError(f"expected a stride of at least 1, got {index.stride}")
        complete, block = bool(raw["complete"]), int(raw["block"])
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
        raise ValueError(
            f"damaged {root}/{INDEX}: {reason(error)}; export the set again"
        ) from error
    if not complete:
        raise ValueError(f"the export of '{root}' was interrupted: run the same export again")
    if block == 1:
        raise ValueError(
            f"'{root}' was exported with --block 1, for other readers: export it without that"
        )
    return raw, index


def _side(value: object) -> int | None:
    if value is not None and not isinstance(value, int):
        raise TypeError(f"expected a number of pixels, got {value!r}")
    return value


def _read_masks(raw: dict[str, Any]) -> Masks:
    palette = [[red, green, blue] for red, green, blue in raw["palette"]]
    for value in (raw["ignore_index"], *chain(*palette)):
        if type(value) is not int or not 0 <= value <= 255:
            raise ValueError(f"expected a number from 0 to 255, got {value!r}")
    return Masks(palette, raw["ignore_index"])


def _read_split(entries: list[dict[str, Any]], masked: bool) -> Split:
    shards = []
    for raw in entries:
        shard = ShardEntry(
            str(raw["name"]),
            (int(raw["bytes"]), int(raw["targets_bytes"])),
            [BlockEntry(*map(int, block)) for block in raw["blocks"]],
            [(int(offset), int(length)) for offset, length in raw["targets"]],
            str(raw.get("targets_name", raw["name"])),
            [(int(offset), int(length)) for offset, length in raw["masks"]] if masked else [],
        )
        for name in (shard.name, shard.targets_name):
            if not NAME.fullmatch(name):
                raise ValueError(f"expected a shard's name like train-00000, got {name!r}")
        places = [(entry.offset, entry.length, shard.sizes[0]) for entry in shard.blocks]
        places += [(*place, shard.sizes[1]) for place in (*shard.targets, *shard.masks)]
        least = [block.samples * (4 + LEAST_MASK) for block in shard.blocks]
        if (
            len(shard.blocks) != len(shard.targets)
            or len(shard.masks) != (len(shard.blocks) if masked else 0)
            or any(min(place) < 0 or sum(place[:2]) > place[2] for place in places)
            or any(min(entry) < 0 or max(entry) >= LIMIT for entry in shard.blocks)
            or any(not 0 < e.samples * LEAST <= e.length for e in shard.blocks)
            or any(m[1] < length for m, length in zip(shard.masks, least, strict=False))
        ):
            raise ValueError(f"the blocks of {shard.name} cannot be where it says")
        _check_rest(raw)
        shards.append(shard)
    samples = sum(entry.samples for shard in shards for entry in shard.blocks)
    if max(samples, sum(size for shard in shards for size in shard.sizes)) >= LIMIT:
        raise ValueError("its shards are larger than any disk")
    return Split(samples, shards)


def _check_rest(raw: dict[str, Any]) -> None:
    """Check what only ``cdinfer shards`` reads of a shard's entry."""
    if not isinstance(raw["count"], int):
        raise TypeError(f"expected a number of samples, got {raw['count']!r}")
    bytes.fromhex(raw["sha256"] + raw.get("targets_sha256", ""))
    for row in [*raw.get("skipped", []), *raw.get("below", [])]:
        if not isinstance(row, list) or not row or not isinstance(row[0], str):
            raise TypeError(f"expected a key and why it is not there, got {row!r}")


def reason(error: Exception) -> str:
    """Say what is wrong; a missing key by its name."""
    return f"nothing called {error}" if isinstance(error, KeyError) else str(error)
