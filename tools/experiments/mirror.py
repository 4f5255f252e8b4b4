"""The pictures of a set of latents once more, as files that any training reads.

    python -m tools.experiments.mirror PHOTOS MIRROR --set SHARDS --as KIND

    decoded        PNG files of what the set's codec decodes
    webp, jpeg     such files of as many bytes as the set

WebP: all pictures have the highest quality that fits, and the first of them the next one, until no
more fit. The set's bytes are those of its tars and index: keys and labels are in them; names and
folders of the mirror are not counted.

The mirror has the splits of PHOTOS and the set's size of pictures, ``SPLIT/CLASS/NAME`` or with
masks the layout of VOC. Printed with ``--json``: pictures, bytes, and of WebP quality and how many
pictures have the next one.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdinfer.cli.export import summarise
from cdinfer.codecs.classical import STANDARDS
from cdinfer.data.images import read_image, resize_short_side
from cdinfer.data.index import read_index
from cdinfer.data.layout import ImageSet, Item, find_pictures
from cdinfer.data.masks import colour_mask, read_mask, resize_mask
from cdinfer.data.shards import ShardDataset
from cdinfer.data.voc import MASKS, PICTURES, describe
from cdinfer.metrics import round_to_8_bits

Picture = NDArray[np.uint8]

SUFFIXES = {"decoded": ".png", "webp": ".webp", "jpeg": ".jpg"}


def decoded(shards: Path, splits: list[str]) -> Iterator[tuple[str, Picture]]:
    """Yield the key of every picture of a set, and what it decodes to."""
    for split in splits:
        data = ShardDataset(shards, split, None, whole=True)
        for number, key in enumerate(data.keys()):
            x_hat = round_to_8_bits(data.codec.decompress([data.file(number)]))[0]
            yield key, x_hat.mul(255).round().byte().permute(1, 2, 0).numpy()


def fill(
    encode: Callable[[int, float], int], count: int, levels: list[float], num_bytes: int
) -> list[float]:
    """Return the level of every picture: one for all, the next one for the first of them.

    Args:
        encode: number of a picture, level -> bytes.
        count: of pictures.
        levels: fewest bytes first.
        num_bytes: the most that all pictures may have.

    Raises:
        ValueError: if they have more at the first level.

    Example:
        >>> fill(lambda number, level: 10 * int(level), 4, [1, 2, 3, 4], 100)
        [3, 3, 2, 2]
    """
    low, high = 0, len(levels)  # bisection, as if bytes grew with every level
    while high - low > 1:
        middle = (low + high) // 2
        total = sum(encode(number, levels[middle]) for number in range(count))
        low, high = (middle, high) if total <= num_bytes else (low, middle)
    sizes = [encode(number, levels[low]) for number in range(count)]
    room = num_bytes - sum(sizes)
    if room < 0:
        raise ValueError(f"expected at most {num_bytes:,} bytes, got {sum(sizes):,} at the lowest")
    chosen = [levels[low]] * count
    for number in range(count if high < len(levels) else 0):
        room -= encode(number, levels[high]) - sizes[number]
        if room < 0:
            break
        chosen[number] = levels[high]
    return chosen


def mirror(pictures: ImageSet, target: Path, shards: Path, kind: str) -> dict[str, Any]:
    """Write a mirror of ``pictures`` and return what is printed."""
    target.mkdir(parents=True, exist_ok=True)
    items = [(split, item) for split, part in pictures.splits.items() for item in part]
    splits = [split for split, part in pictures.splits.items() if part]
    if kind == "decoded":
        by_key = {item.key: (split, item) for split, item in items}
        total = 0
        for key, picture in decoded(shards, splits):
            path = _place(target, pictures, *by_key.pop(key), ".png")
            Image.fromarray(picture).save(path)
            total += path.stat().st_size
        assert not by_key
        said: dict[str, Any] = {"bytes": total}
    else:
        said = _fill_folder(pictures, target, items, shards, kind)
    if pictures.masks is not None:
        _write_masks(pictures, target, items, SUFFIXES[kind])
    return {"pictures": len(items), **said}


def _fill_folder(
    pictures: ImageSet, target: Path, items: list[tuple[str, Item]], shards: Path, kind: str
) -> dict[str, Any]:
    index = read_index(shards)
    raw = json.loads((shards / "index.json").read_bytes())
    standard = STANDARDS[kind]
    side = index.preprocessing["resize"]
    pixels = [read_image(pictures.root / item.key) for _, item in items]
    if side is not None:
        pixels = [resize_short_side(picture, side) for picture in pixels]
    files: dict[tuple[int, float], bytes] = {}

    def encode(number: int, level: float) -> int:
        if (number, level) not in files:
            files[number, level] = standard.encode(pixels[number], level, **standard.options)
        return len(files[number, level])

    budget = summarise(raw, shards)["bytes_after"]
    chosen = fill(encode, len(items), list(standard.levels), budget)
    for number, (split, item) in enumerate(items):
        path = _place(target, pictures, split, item, SUFFIXES[kind])
        path.write_bytes(files[number, chosen[number]])
    total = sum(encode(number, level) for number, level in enumerate(chosen))
    higher = sum(level != chosen[-1] for level in chosen)
    return {"bytes": total, "budget": budget, "quality": chosen[-1], "next": higher}


def _place(target: Path, pictures: ImageSet, split: str, item: Item, suffix: str) -> Path:
    """Return where a picture goes; its folder is made."""
    if pictures.masks is not None:
        path = target / Path(item.key).with_suffix(suffix)
    else:
        name = "_".join(Path(item.key).with_suffix(suffix).parts)
        path = target / split / pictures.classes[item.label] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_masks(
    pictures: ImageSet, target: Path, items: list[tuple[str, Item]], suffix: str
) -> None:
    """Write masks, lists and what describes them."""
    masks = pictures.masks
    assert masks is not None
    ids: dict[str, list[str]] = {split: [] for split in pictures.splits}
    for split, item in items:
        size = read_image(pictures.root / item.key).shape[:2]
        with Image.open(target / Path(item.key).with_suffix(suffix)) as small:
            shape = small.height, small.width
        mask = read_mask(pictures.root / item.mask, masks, len(pictures.classes), size)
        path = target / MASKS / Path(item.key).relative_to(PICTURES).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        colour_mask(resize_mask(mask, shape), masks.palette).save(path)
        ids[split].append(Path(item.key).relative_to(PICTURES).with_suffix("").as_posix())
    describe(target, pictures.classes, masks, ids)


def main() -> int:
    """Write a mirror, print what it is and return the exit status."""
    parse = argparse.ArgumentParser("python -m tools.experiments.mirror")
    parse.add_argument("src", type=Path, help="folder of labelled pictures")
    parse.add_argument("dst", type=Path, help="folder for the mirror; what is in it is replaced")
    parse.add_argument("--set", type=Path, required=True, help="shards exported from SRC")
    parse.add_argument("--as", dest="kind", choices=SUFFIXES, required=True)
    parse.add_argument("--splits", metavar="NAME", help="use the lists splits/train_NAME.txt ...")
    parse.add_argument("--json", action="store_true", help="print one JSON object")
    args = parse.parse_args()
    said = mirror(find_pictures(args.src, args.splits), args.dst, args.set, args.kind)
    lines = [f"{name:<10} {value:>15,}" for name, value in said.items()]
    print(json.dumps(said) if args.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
