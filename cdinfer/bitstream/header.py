"""The header of a ``.cdi`` file, up to its checksums: `container` says what it holds."""

import itertools
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from cdinfer.bitstream.errors import BitstreamError

MAGIC = b"CDI1"
PROVISIONAL, FIELDS = 1, 2

_FIXED = struct.Struct("<4s4sIHH")
_SIDE = struct.Struct("<I")
_TAIL = struct.Struct("<BB")
_GROUP = struct.Struct("<BI")
_FIELD = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_NAME = re.compile(rb"[A-Z0-9_]{4}")
AGAIN = "copy the file or encode the picture again"


class Header(NamedTuple):
    """What a decoder must know before it reads the payloads.

    Sides are in pixels, 1 to 2**32 - 1; ``stream`` is a `stream_id`; ``groups`` are numbers of
    channels, 2 groups or more, or empty: one group of all channels; ``fields`` are pairs of a tag
    and its content.
    """

    codec: str
    stream: int
    height: int
    width: int
    provisional: bool = False
    groups: tuple[int, ...] = ()
    fields: tuple[tuple[str, bytes], ...] = ()

    def ends(self, channels: int) -> list[int]:
        """Return the channel behind each group's last, for a codec of so many channels."""
        return list(itertools.accumulate(self.groups or (channels,)))


def pack_header(header: Header, payloads: Sequence[bytes]) -> bytes:
    """Return all header bytes before the checksums."""
    sides = (header.height, header.width)
    assert all(1 <= side < 1 << 32 for side in sides), sides
    assert _NAME.fullmatch(header.codec.encode("ascii")), header.codec
    assert len(header.groups) != 1, "one group is written as ()"
    assert len(payloads) == max(1, len(header.groups)), (len(payloads), header.groups)
    short = [side if side < 1 << 16 else 0 for side in sides]
    flags = PROVISIONAL * header.provisional + FIELDS * bool(header.fields)
    parts = [_FIXED.pack(MAGIC, header.codec.encode("ascii"), header.stream, *short)]
    parts += [_SIDE.pack(side) for side in sides if side >= 1 << 16]
    parts += [_TAIL.pack(flags, len(payloads))]
    parts += [
        _GROUP.pack(channels, len(payload))
        for channels, payload in zip(header.groups, payloads, strict=False)
    ]
    if header.fields:
        parts += [bytes([len(header.fields)])]
        for tag, content in header.fields:
            assert _NAME.fullmatch(tag.encode("ascii")), tag
            parts += [_FIELD.pack(tag.encode("ascii"), len(content)), content]
    return b"".join(parts)


def unpack_header(data: bytes, index: int | None) -> tuple[Header, list[int], tuple[int, ...], int]:
    """Return header, payload lengths if there are several groups, checksums, where payloads start.

    Raises:
        struct.error: if the data end before that.
    """
    _, codec, stream, *sides = _FIXED.unpack_from(data)
    end = _FIXED.size
    for axis in range(2):
        if sides[axis] == 0:
            (sides[axis],) = _SIDE.unpack_from(data, end)
            end += _SIDE.size
            if sides[axis] < 1 << 16:
                raise damaged("a side of the picture is 0", index)
    flags, num_groups = _TAIL.unpack_from(data, end)
    end += _TAIL.size
    if not _NAME.fullmatch(codec):
        raise damaged(f"{codec!r} is not the name of a codec", index)
    if flags & ~(PROVISIONAL | FIELDS):
        raise newer(f"it carries flags {flags:#04x} that are not known here", index)
    table = []
    if num_groups > 1:
        table = [_GROUP.unpack_from(data, end + _GROUP.size * k) for k in range(num_groups)]
        end += _GROUP.size * num_groups
    channels, lengths = [group[0] for group in table], [group[1] for group in table]
    if num_groups == 0 or 0 in channels or sum(channels) > 256:
        raise damaged(f"{num_groups} channel groups of {channels} channels", index)
    fields: list[tuple[str, bytes]] = []
    if flags & FIELDS:
        fields, end = _unpack_fields(data, end, index)
    crcs = struct.unpack_from(f"<{num_groups}I", data, end)
    name = codec.decode("ascii")
    provisional = bool(flags & PROVISIONAL)
    header = Header(name, stream, sides[0], sides[1], provisional, tuple(channels), tuple(fields))
    return header, lengths, crcs, end + _CRC.size * num_groups


def _unpack_fields(
    data: bytes, start: int, index: int | None
) -> tuple[list[tuple[str, bytes]], int]:
    """Return the fields and where they end; a file cannot hold more of them than bytes."""
    (count,) = struct.unpack_from("<B", data, start)
    end, fields = start + 1, []
    for _ in range(count):
        tag, length = _FIELD.unpack_from(data, end)
        end += _FIELD.size
        if not _NAME.fullmatch(tag):
            raise damaged(f"{tag!r} is not the tag of a field", index)
        (content,) = struct.unpack_from(f"{length}s", data, end)
        end += length
        fields.append((tag.decode("ascii"), content))
    if len({tag for tag, _ in fields}) < max(1, count):
        raise damaged(f"{count} fields, or one of them twice", index)
    return fields, end


def damaged(detail: str, index: int | None) -> BitstreamError:
    """Return the error for bytes that `pack_header` never writes."""
    return BitstreamError(f"damaged: {detail}; {AGAIN}", index)


def newer(detail: str, index: int | None) -> BitstreamError:
    """Return the error for bytes that may have a meaning one day."""
    return BitstreamError(
        f"written by a newer cdinfer, or damaged: {detail}; update cdinfer, or copy the file again",
        index,
    )
