"""Symbols <-> bytes: integer tables, the entropy coder, the ``.cdi`` container.

The coder is imported from `cdinfer.bitstream.rans`, where it is needed: it takes numba along, and
reading a header (``cdinfer info``) should not wait for that.
"""

from cdinfer.bitstream.container import (
    MAX_PIXELS,
    Header,
    Parsed,
    checked_size,
    pack,
    parse,
    stream_id,
    verify,
)
from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.tables import Tables, build_tables, ideal_bits

__all__ = [
    "MAX_PIXELS",
    "BitstreamError",
    "Header",
    "Parsed",
    "Tables",
    "build_tables",
    "checked_size",
    "ideal_bits",
    "pack",
    "parse",
    "stream_id",
    "verify",
]
