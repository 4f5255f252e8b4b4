"""``cdinfer decode``: ``.cdi`` files -> pictures.

The codec is found by the stream id in each file, among shipped codecs and those under ``runs/``,
unless ``--codec`` names it. EXIF and colour profile that a file carries go into PNG and TIFF.
"""

import functools
from pathlib import Path

from cdinfer.cli import files

#: What OUT may end in: only formats that keep every pixel.
FORMATS = {".png": "PNG", ".bmp": "BMP", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF"}


def main(argv: list[str]) -> int:
    """Decode every file that can be, and return the exit status."""
    parser = files.make_parser(
        "decode",
        f"Turn .cdi files into pictures: PNG, or what OUT ends in ({' '.join(FORMATS)}).",
        "cdinfer decode small/*.cdi -o large/",
    )
    parser.add_argument("file", nargs="+", metavar="FILE", help=".cdi file")
    files.add_codec_flag(parser, "the one the file names, where it is known")
    files.add_precision_flag(parser)
    files.add_output_flags(parser)
    args = parser.parse_args(argv)

    from cdinfer.bitstream.container import MAX_PIXELS  # torch takes seconds to import
    from cdinfer.codecs.cae import CAE
    from cdinfer.codecs.stored import read_codec
    from cdinfer.codecs.zoo import find_codec, find_stream
    from cdinfer.data.metadata import save_picture

    @functools.cache
    def load(folder: Path) -> CAE:
        codec = read_codec(folder)
        codec.max_pixels = args.max_pixels or MAX_PIXELS
        codec.precision = args.precision
        return codec

    inputs = [files.Input(Path(file), Path(Path(file).name)) for file in args.file]
    outputs = files.plan_outputs(inputs, args.out, len(inputs) > 1, list(FORMATS))
    given = find_codec(args.codec) if args.codec else None

    def decode(path: Path) -> files.Result:
        header, num_bytes = files.read_header(path)
        files.check_output(path, outputs[path], args.overwrite)
        codec = load(given or find_stream(header.stream))
        (x,) = codec.render([path.read_bytes()])
        kind = FORMATS[outputs[path].suffix.lower()]
        data, notes = save_picture(x.permute(1, 2, 0).numpy(), kind, header.fields)
        files.write_output(outputs[path], data)
        row = files.describe_file(path, header, num_bytes)
        return files.Result(f"{path} -> {outputs[path]}", row, notes)

    return files.each("decode", outputs, decode, args.json)
