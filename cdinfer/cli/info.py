"""``cdinfer info``: what the header of a ``.cdi`` file says.

Only the header is read, nothing is verified and no codec is needed. ``--json`` rows have four
fields more: ``stream``, eight hexadecimal digits; ``provisional``, true for files written while
their codec was still training; ``groups``, the channels of each channel group (empty: one group of
all); and ``fields``, the bytes of each optional field, by name.
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
    header, length = files.read_header(path)
    row = files.describe_file(path, header, length)
    fields = {name: len(data) for name, data in header.fields}
    row |= {"stream": f"{header.stream:08x}", "provisional": header.provisional}
    row |= {"groups": list(header.groups), "fields": fields}
    title = (
        f"{path}: {header.codec}, stream {row['stream']}" + " (provisional)" * row["provisional"]
    )
    if header.groups:
        title += f", channel groups of {', '.join(map(str, header.groups))}"
    title += "".join(f", {name} of {num_bytes} bytes" for name, num_bytes in fields.items())
    return files.Result(title, row)
