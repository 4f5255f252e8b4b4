"""``cdinfer info``: what the header of a ``.cdi`` file says.

Only the header is read, nothing is verified and no codec is needed. ``--json`` rows have two
fields more: ``stream``, eight hexadecimal digits, and ``provisional``, true for files written
while their codec was still training.
"""

from pathlib import Path

from cdinfer.cli import files


def main(argv: list[str]) -> int:
    """Describe every file that is one, and return the exit status."""
    parser = files.make_parser(
        "info", "Say what .cdi files say about themselves.", "cdinfer info small/*.cdi"
    )
    parser.add_argument("file", nargs="+", metavar="FILE", help=".cdi file")
    args = parser.parse_args(argv)
    return files.each("info", map(Path, args.file), _info, args.json)


def _info(path: Path) -> files.Result:
    header, num_bytes = files.read_header(path)
    row = files.describe_file(path, header, num_bytes)
    row |= {"stream": f"{header.stream:08x}", "provisional": header.provisional}
    title = f"{path}: {header.codec}, stream {row['stream']}"
    return files.Result(title + " (provisional)" * header.provisional, row)
