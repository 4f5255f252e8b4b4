"""Decode a ``.cdi`` file of codec ``CAE_`` as cdinfer/bitstream/FORMAT.md says, and no faster.

    python tools/reference_decoder.py CODEC_FOLDER FILE.cdi [--groups K] [--npy OUT]

Prints shape ``(C, h, w)`` and SHA-256 of the decoded symbols, one byte each, or writes them to OUT.
Numpy and the standard library are enough: nothing is shared with the package, so that each can be
tested against the other. Sections are those of FORMAT.md.
"""

import argparse
import hashlib
import json
import math
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

STRIDE = 8  # pixels per symbol, each way
CODER = b"rans-32-16-12-context-1"
TYPES = {"U8": "<u1", "U16": "<u2", "I16": "<i2", "F32": "<f4"}
TAPS_AND_EDGES = ("mean_taps", "activity_taps", "mean_edges", "activity_edges")
PARTS = ("sizes", "zeros", *TAPS_AND_EDGES, "frequencies")


def check(condition: bool, complaint: str) -> None:
    """Refuse a file."""
    if not condition:
        raise ValueError(complaint)


class Reader:
    """Bytes that are read in order, little endian."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        check(self.place + count <= len(self.data), "the file ends early")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def tag(self) -> bytes:
        tag = self.take(4)
        check(re.fullmatch(rb"[A-Z0-9_]{4}", tag) is not None, f"{tag!r} is no tag")
        return tag


def read_container(data: bytes, num_channels: int, wanted: int | None) -> tuple[Any, ...]:
    """Section 1: return stream, sides, covered bytes and (channels, crc, payload) of each group."""
    file = Reader(data)
    check(file.take(4) == b"CDI1", "not a CDI1 file")
    check(file.tag() == b"CAE_", "of another codec than CAE_")
    stream, sides = file.number(4), [file.number(2), file.number(2)]
    for axis in (0, 1):
        if sides[axis] == 0:
            sides[axis] = file.number(4)
            check(sides[axis] >= 65536, "a side out of range")
    flags, count = file.number(1), file.number(1)
    check(flags < 4 and count > 0, "unknown flags, or no groups")
    table = [(file.number(1), file.number(4)) for _ in range(count if count > 1 else 0)]
    if flags & 2:
        fields = [(file.tag(), file.take(file.number(4))) for _ in range(file.number(1))]
        check(len(fields) == len(dict(fields)) > 0, "no field, or one twice")
    covered = data[: file.place]
    crcs = [file.number(4) for _ in range(count)]
    check(wanted is None or 1 <= wanted <= count, f"the file has {count} groups")
    table = table or [(num_channels, len(data) - file.place)]
    total = sum(channels for channels, _ in table)
    check(min(table)[0] > 0 and total == num_channels, "groups of other channels")
    groups = list(zip(table, crcs, strict=True))[:wanted]
    groups = [(channels, crc, file.take(length)) for (channels, length), crc in groups]
    check(wanted is not None or file.place == len(data), "bytes are left over")
    return stream, sides, covered, groups


def read_tensors(path: Path) -> dict[str, Any]:
    """Section 4: return name -> array of a safetensors file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    about: dict[str, Any] = json.loads(data[8:start])
    about.pop("__metadata__", None)
    for name, tensor in about.items():
        first, last = tensor["data_offsets"]
        array = np.frombuffer(data[start + first : start + last], TYPES[tensor["dtype"]])
        about[name] = array.reshape(tensor["shape"])
    return about


def stream_id(model: dict[str, Any]) -> int:
    """Section 5."""
    arrays, centers = [model[name] for name in PARTS], model["centers"]
    packed = b"".join(struct.pack("<I", side) for array in arrays for side in array.shape)
    packed += b"".join(array.tobytes() for array in arrays)
    parts = (b"CAE_", CODER, struct.pack("<2I", *centers.shape), centers.tobytes(), packed)
    hashed = hashlib.sha256(b"".join(struct.pack("<Q", len(part)) + part for part in parts))
    return int.from_bytes(hashed.digest()[:4], "little")


class Channel:
    """Section 2: the context rule of one channel, whose first row of the tables is ``first``."""

    def __init__(self, model: dict[str, Any], number: int, first: int) -> None:
        self.number, self.first, self.zero = number, first, int(model["zeros"][number])
        self.mean_taps, self.activity_taps, self.mean_edges, self.activity_edges = (
            [row[1:] for row in model[part].tolist() if row[0] == number] for part in TAPS_AND_EDGES
        )
        self.end = first + (len(self.mean_edges) + 1) * (len(self.activity_edges) + 1)

    def sums(self, taps: Any, size: Any, k: Any, y: int, x: int) -> list[int]:  # noqa: ANN401
        """Return the sum over other taps and that over the left tap; ``k`` has a border of 0."""
        sums = [0, 0]
        for of, dy, dx, weight in taps:
            number = size(k[of][y + 1 + dy][x + 1 + dx])
            sums[(of, dy, dx) == (self.number, 0, -1)] += weight * number
        return sums

    def row(self, k: list[Any], y: int, x: int) -> int:
        """Return the row of the tables."""
        o, left = self.sums(self.mean_taps, int, k, y, x)
        p, q = self.sums(self.activity_taps, abs, k, y, x)
        mean = max(-31, min(31, o // 16)) + max(-31, min(31, left // 16))
        activity = min(47, p // 16) + min(15, q // 16)
        means = sum(edge <= mean for (edge,) in self.mean_edges)
        activities = sum(edge <= activity for (edge,) in self.activity_edges)
        return self.first + means * (len(self.activity_edges) + 1) + activities


def decode_channel(words: Reader, state: int, channel: Channel, rows: Any, k: Any) -> Any:  # noqa: ANN401
    """Section 3: return the last state and the symbols; set their numbers in ``k``."""
    symbols = bytearray()
    for y in range(len(k[-1]) - 2):
        for x in range(len(k[-1][0]) - 2):
            row = rows[channel.row(k, y, x)]
            (rest, slot), symbol = divmod(state, 4096), 0
            while slot >= row[symbol]:
                slot -= row[symbol]
                symbol += 1
            state = row[symbol] * rest + slot
            if state < 65536:
                state = 65536 * state + words.number(2)
            symbols.append(symbol)
            k[channel.number][y + 1][x + 1] = symbol - channel.zero
    return state, bytes(symbols)


def decode(folder: Path, data: bytes, wanted: int | None) -> Any:  # noqa: ANN401
    """Return symbols (C, h, w) of a file, of its first ``wanted`` groups if not None."""
    model, channels = read_tensors(folder / "tables.safetensors"), list[Channel]()
    for number in range(len(model["sizes"])):
        channels.append(Channel(model, number, channels[-1].end if channels else 0))
    stream, (height, width), covered, groups = read_container(data, len(channels), wanted)
    named = int(json.loads((folder / "codec.json").read_bytes())["stream"], 16)
    check(stream == named == stream_id(model), f"stream {stream:08x} is not the folder's")
    h, w = math.ceil(height / STRIDE), math.ceil(width / STRIDE)
    rows, k, decoded = model["frequencies"].tolist(), list[Any](), b""
    for count, crc, payload in groups:
        group, symbols = channels[len(k) : len(k) + count], b""
        least = sum(12 - math.log2(max(map(max, rows[c.first : c.end]))) for c in group)
        check(h * w * least * 7 / 8 <= 8 * len(payload), "a payload cannot hold the picture")
        words = Reader(payload)
        state = words.number(4)  # low word, high word
        check(state >= 65536, "first state out of range")
        for channel in group:
            k.append([[0] * (w + 2) for _ in range(h + 2)])
            state, part = decode_channel(words, state, channel, rows, k)
            symbols += part
        check(state == 65536 and words.place == len(payload), "a payload has not ended")
        check(zlib.crc32(covered + symbols) == crc, "the checksum differs")
        decoded += symbols
    return np.frombuffer(decoded, np.uint8).reshape(-1, h, w)


def main() -> None:
    """Decode one file."""
    parser = argparse.ArgumentParser(description="Decode a .cdi file of codec CAE_, slowly.")
    parser.add_argument("folder", type=Path, help="folder with tables.safetensors and codec.json")
    parser.add_argument("file", type=Path, help=".cdi file")
    parser.add_argument("--groups", type=int, metavar="K", help="only the first K channel groups")
    parser.add_argument("--npy", type=Path, metavar="OUT", help="write the symbols to OUT")
    args = parser.parse_args()
    try:
        symbols = decode(args.folder, args.file.read_bytes(), args.groups)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"reference_decoder: {args.file}: {error}")
    if args.npy:
        np.save(args.npy, symbols)
    else:
        print(*symbols.shape, hashlib.sha256(symbols).hexdigest())


if __name__ == "__main__":
    main()
