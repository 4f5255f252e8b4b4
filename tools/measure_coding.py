"""What the context model saves: real bytes against static tables, zstd and the model's own ideal.

    python tools/measure_coding.py --train PHOTOS --on KODAK --on RSSCN7 --every 10

For every shipped codec (or those given): mean bytes of whole ``.cdi`` files, with the context
model that ships and with per-channel static tables counted on the training pictures, headers
included in both; zstd -19 of the symbols, one in a byte, channel after channel; and the ideal code
length of the context model. The saving is taken between totals of real bytes.
"""

import argparse
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cdinfer.bitstream import rans
from cdinfer.bitstream.context import ContextModel, static_model
from cdinfer.bitstream.tables import SCALE, build_tables
from cdinfer.codecs import CAE, load_codec, shipped_codecs
from cdinfer.data.images import find_images, read_image, to_tensor

HEADER = 22

Symbols = list[NDArray[np.uint8]]


def symbols_of(codec: CAE, folder: Path, every: int) -> Symbols:
    """Return symbols ``(1, C, h, w)`` of every so manyth picture of a folder."""
    pictures = (read_image(path) for path in find_images(folder)[::every])
    return [codec.symbols(to_tensor(picture)[None]).numpy() for picture in pictures]


def static_of(model: ContextModel, seen: Symbols) -> ContextModel:
    """Return per-channel static tables that fit ``seen``, over the alphabet of ``model``."""
    length = int(model.sizes.max())
    rows = np.zeros((len(model.sizes), length), np.int64)
    for channel, size in enumerate(model.sizes.tolist()):
        values = np.concatenate([s[0, channel].ravel() for s in seen])
        rows[channel, :size] = np.bincount(values, minlength=size)
    tables = build_tables(rows)
    assert (tables.sum(1) == SCALE).all()
    return static_model(tables)


def row(codec: CAE, static: ContextModel, seen: Symbols) -> list[float]:
    """Return mean bytes: static, zstd, ideal, ours; and the saving in percent."""
    assert codec.model is not None
    sums = np.zeros(4)
    for symbols in seen:
        sums += [
            len(rans.encode(symbols, static)[0]) + HEADER,
            len(imagecodecs.zstd_encode(symbols.tobytes(), level=19)) + HEADER,
            rans.ideal_bits(symbols, codec.model)[0] / 8 + HEADER,
            len(rans.encode(symbols, codec.model)[0]) + HEADER,
        ]
    return [*(sums / len(seen)), 100 * (sums[3] / sums[0] - 1)]


def main() -> None:
    """Print a Markdown table."""
    parse = argparse.ArgumentParser()
    parse.add_argument("--train", type=Path, required=True, help="pictures of the static tables")
    parse.add_argument("--on", type=Path, action="append", required=True)
    parse.add_argument("--every", type=int, default=1, help="take one picture in so many")
    parse.add_argument("--codec", action="append", help="default: all that ship")
    args = parse.parse_args()
    print("| codec | bpp | pictures | static | zstd -19 | ideal | context | saved |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for name in args.codec or map(str, shipped_codecs()):
        codec = load_codec(name)
        assert isinstance(codec, CAE)
        assert codec.model is not None
        static = static_of(codec.model, symbols_of(codec, args.train, 3))
        for folder in args.on:
            every = args.every if len(find_images(folder)) > 100 else 1
            *sizes, saved = row(codec, static, symbols_of(codec, folder, every))
            cells = " | ".join(f"{size:,.0f}" for size in sizes)
            print(
                f"| {codec.name} | {codec.bpp} | {folder.name} | {cells} | {saved:+.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
