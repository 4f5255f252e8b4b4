"""``cdinfer encode``: pictures -> ``.cdi`` files.

One file a picture; large pictures go through the encoder in tiles, which changes no symbol. A
folder stands for all pictures below it, whose places are kept below ``-o OUT``.

With ``--min-psnr`` every file is decoded and compared. A picture below the floor is encoded again
at the next rate that the codec's name has, and in the end as JPEG XL, ``OUT.jxl``, which other
programs read. ``--json`` rows then have two fields more: ``psnr`` in dB (null: exact), and
``rate``, the nominal one of the codec used (null for JPEG XL, whose ``codec`` is ``jxl``).
"""

import argparse
import math
from pathlib import Path

from cdinfer.cli import files

#: What ``--keep`` takes; `data.metadata` has more about them.
KINDS = ("exif", "icc")


def main(argv: list[str]) -> int:
    """Encode every picture that can be, and return the exit status."""
    args = _parse(argv)

    from cdinfer.bitstream.container import MAX_PIXELS, parse  # torch takes seconds to import
    from cdinfer.codecs.stored import read_codec
    from cdinfer.codecs.zoo import find_codec
    from cdinfer.data.images import IMAGE_SUFFIXES, ImageError, as_tensor, read_image
    from cdinfer.data.metadata import read_fields

    inputs = [found for image in args.image for found in _find(Path(image))]
    into_folder = len(args.image) > 1 or Path(args.image[0]).is_dir()
    outputs = files.plan_outputs(inputs, args.out, into_folder, (".cdi",))
    codecs = [read_codec(find_codec(args.codec, args.bpp))]
    if args.min_psnr is not None and args.codec in files.CODECS:
        from cdinfer.codecs.guard import higher_rates  # takes imagecodecs along

        codecs += higher_rates(codecs[0])
    for codec in codecs:
        codec.precision = args.precision

    def encode(path: Path) -> files.Result:
        if path.is_dir():
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"no pictures in this folder: expected files ending in {kinds}")
        files.check_input(path)
        output, standard = outputs[path], outputs[path].with_suffix(".jxl")
        files.check_output(path, output, args.overwrite)
        if args.min_psnr is not None:
            files.check_output(path, standard, args.overwrite)
        try:
            picture = read_image(path, max_pixels=args.max_pixels or MAX_PIXELS)
        except ImageError as error:
            if not error.pixels:
                raise
            raise ValueError(f"{error}; give --max-pixels {error.pixels} if you trust it") from None
        fields, notes = read_fields(path, args.keep)
        if args.min_psnr is None:
            (data,) = codecs[0].compress(as_tensor(picture)[None], fields, args.groups)
            files.write_output(output, data)
            row = files.describe_file(output, parse(data).header, len(data))
            return files.Result(f"{path} -> {output}", row, notes)
        from cdinfer.codecs.guard import encode_above

        attempts = encode_above(args.min_psnr, picture, codecs, fields)
        last = attempts[-1]
        if last.rate is None:
            output = standard
            notes += ("its EXIF and ICC are not kept in JPEG XL",) * bool(fields)
        files.write_output(output, last.file)
        row = files.describe_file(output, parse(attempts[0].file).header, len(last.file))
        row |= {"codec": "jxl"} if last.rate is None else {}
        row |= {"psnr": last.psnr if math.isfinite(last.psnr) else None, "rate": last.rate}
        tried = ", ".join(f"{attempt.psnr:.2f} dB {attempt.how}" for attempt in attempts)
        return files.Result(f"{path} -> {output} ({tried})", row, notes)

    return files.each("encode", outputs, encode, args.json)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = files.make_parser(
        "encode",
        "Compress pictures to .cdi files. EXIF and colour profile are dropped unless --keep is "
        "given; an EXIF orientation is applied.",
        "cdinfer encode photos/ --bpp 0.33 -o small/",
    )
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="picture, or folder of pictures")
    files.add_codec_flag(parser)
    parser.add_argument(
        "--bpp", type=float, metavar="R", help="nominal rate in bits per pixel (default: 0.33)"
    )
    parser.add_argument(
        "--min-psnr",
        type=files.decibels,
        metavar="DB",
        help="a picture worse than this goes up to the codec's next rate, or in the end becomes "
        "a .jxl file",
    )
    parser.add_argument(
        "--keep",
        type=_kinds,
        default=(),
        metavar="KINDS",
        help="store exif, icc or exif,icc with the picture, for decode to write back (default: "
        "neither)",
    )
    parser.add_argument(
        "--groups",
        type=_groups,
        metavar="N,N,...",
        help="cut the channels into groups of so many: readers can decode the first groups alone "
        "(default: one group of all)",
    )
    files.add_precision_flag(parser)
    files.add_output_flags(parser)
    args = parser.parse_args(argv)
    if args.groups and args.min_psnr is not None:
        raise ValueError("--groups and --min-psnr do not go together: rates differ in channels")
    return args


def _groups(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.isascii() and number.isdigit() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"expected numbers of channels such as 4,12, got '{text}'")
    return tuple(map(int, numbers))


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"expected {', '.join(KINDS)} or both, got '{text}'")
    return kinds


def _find(path: Path) -> list[files.Input]:
    """Return a picture, or those of a folder; an empty folder stands for itself."""
    from cdinfer.data.images import find_images

    if not path.is_dir():
        return [files.Input(path, Path(path.name))]
    return [files.Input(p, p.relative_to(path)) for p in find_images(path) or [path]]
