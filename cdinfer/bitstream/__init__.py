"""Symbols <-> bytes: integer tables, context models, the entropy coder, the ``.cdi`` container.

The coder is imported where it is needed, from `cdinfer.bitstream.files` or `rans`: it takes numba
along, and reading a header (``cdinfer info``) should not wait for that.
"""

from cdinfer.bitstream.container import (
    MAX_PIXELS,
    Parsed,
    checked_size,
    pack,
    parse,
    stream_id,
    verify,
)
from cdinfer.bitstream.context import ContextModel, static_model
from cdinfer.bitstream.errors import BitstreamError
from cdinfer.bitstream.header import Header
from cdinfer.bitstream.tables import build_tables

__all__ = [
    "MAX_PIXELS",
    "BitstreamError",
    "ContextModel",
    "Header",
    "Parsed",
    "build_tables",
    "checked_size",
    "pack",
    "parse",
    "static_model",
    "stream_id",
    "verify",
]
