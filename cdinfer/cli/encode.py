"""``cdinfer encode``: pictures -> ``.cdi`` files.

One file a picture, encoded whole in fp32. A folder stands for all pictures below it, whose
places are kept below ``-o OUT``.
"""

from pathlib import Path

from cdinfer.cli import files


def main(argv: list[str]) -> int:
    """Encode every picture that can be, and return the exit status."""
    parser = files.make_parser(
        "encode",
        "Compress pictures to .cdi files.",
        "cdinfer encode photos/ --bpp 0.33 -o small/",
    )
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="picture, or folder of pictures")
    parser.add_argument("--codec", default="cae", metavar="NAME|RUN", help="default: cae")
    parser.add_argument(
        "--bpp", type=float, metavar="R", help="nominal rate in bits per pixel (default: 0.33)"
    )
    files.add_output_flags(parser)
    args = parser.parse_args(argv)

    from cdinfer.bitstream.container import MAX_PIXELS, parse  # torch takes seconds to import
    from cdinfer.codecs.zoo import load_codec
    from cdinfer.data.images import IMAGE_SUFFIXES, read_image, to_tensor

    inputs = [found for image in args.image for found in _find(Path(image))]
    into_folder = len(args.image) > 1 or Path(args.image[0]).is_dir()
    outputs = files.plan_outputs(inputs, args.out, into_folder, (".cdi",))
    codec = load_codec(args.codec, args.bpp)

    def encode(path: Path) -> files.Result:
        if path.is_dir():
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"no pictures in this folder: expected files ending in {kinds}")
        files.check_input(path)
        files.check_output(path, outputs[path], args.overwrite)
        picture = read_image(path, max_pixels=args.max_pixels or MAX_PIXELS)
        (data,) = codec.compress(to_tensor(picture)[None])
        files.write_output(outputs[path], data)
        row = files.describe_file(outputs[path], parse(data).header, len(data))
        return files.Result(f"{path} -> {outputs[path]}", row)

    return files.each("encode", outputs, encode, args.json)


def _find(path: Path) -> list[files.Input]:
    """Return a picture, or those of a folder; an empty folder stands for itself."""
    from cdinfer.data.images import find_images

    if not path.is_dir():
        return [files.Input(path, Path(path.name))]
    return [files.Input(p, p.relative_to(path)) for p in find_images(path) or [path]]
