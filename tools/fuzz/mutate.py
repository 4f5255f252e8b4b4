"""Ways to spoil bytes and JSON: blindly, and where it hurts."""

import json
import struct
from random import Random

#: Sides of what is usual, of what fits a type, and of what anything may be.
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

#: What no writer of ours puts into JSON, as text; the keys stand for them in a value.
RAW = {
    "@deep list@": "[" * 50_000 + "]" * 50_000,
    "@open list@": "[" * 50_000,
    "@deep object@": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "@long number@": "9" * 5_000,
    "@long float@": "0." + "9" * 5_000,
    "@overflow@": "1e999",
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@twice@": '{"name": 1, "name": 2}',
    "@half a pair@": '"\\ud800"',
    "@no text@": '"\\u0000\\n"',
}

#: Values of another type, of another size, and names that lead elsewhere.
VALUES = (
    *RAW, None, True, False, -1, 0, 1, 2, 2**31, 2**63, 2**64, 10**30, -(2**63), 1e-300, 1.5, 1e308,
    "", "0", "x", "x" * 70_000, "../../x", "/etc/passwd", "/dev/zero", "a\0b", "\n", "train-00000",
    "../train-00000", [], [[]], {}, {"": 0}, [0] * 3000, ["a"], [None],
)  # fmt: skip


def spoil(data: bytes, rng: Random, other: bytes = b"") -> bytes:
    """Return ``data`` after one to four blind changes; ``other`` lends its tail or a slice."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BLIND)(data, rng, other)
    return data


def spoil_number(data: bytes, begin: int, size: int, rng: Random) -> bytes:
    """Return ``data`` with the little-endian number of 1, 2 or 4 bytes at ``begin`` changed."""
    kind = {1: "<B", 2: "<H", 4: "<I"}[size]
    (old,) = struct.unpack_from(kind, data, begin)
    step = rng.choice((-8, -2, -1, 1, 2, 8, old, -(old // 2)))
    new = rng.choice((*NUMBERS, rng.getrandbits(8 * size), *[old + step] * 4))
    return data[:begin] + struct.pack(kind, new % 256**size) + data[begin + size :]


def spoil_json(text: str, rng: Random) -> str:
    """Return JSON with one to three of its values replaced, removed, moved or added."""
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _spoil_value(value, rng)
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def _spoil_value(value: object, rng: Random) -> object:
    """Walk to a random place, at every depth alike, and change what is there."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        how = rng.random()
        if how < 0.06:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.1:
            return value | {str(rng.choice(VALUES)): value[key]}
        return value | {key: _spoil_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        how = rng.random()
        if how < 0.06:
            return value[:at] + value[at + 1 :]
        if how < 0.12:
            return value[: at + 1] + value[at:]
        return [*value[:at], _spoil_value(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int) and rng.random() < 0.5:
        return rng.choice((*NUMBERS, value + 1, value - 1, value + 8, -value, 2 * value))
    return rng.choice(VALUES)


def _flip(data: bytes, rng: Random, other: bytes) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _set(data: bytes, rng: Random, other: bytes) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8))
    filling = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), b"\x7f" * size))
    return data[:at] + filling + data[at + size :]


def _cut(data: bytes, rng: Random, other: bytes) -> bytes:
    return data[: rng.choice((rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(8))))]


def _extend(data: bytes, rng: Random, other: bytes) -> bytes:
    size = rng.choice((1, 2, 4, 16, 600, 5000))
    return data + rng.choice((bytes(size), rng.randbytes(size), data[:size]))


def _remove(data: bytes, rng: Random, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 30)) :]


def _insert(data: bytes, rng: Random, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 30))) + data[at:]


def _swap(data: bytes, rng: Random, other: bytes) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _splice(data: bytes, rng: Random, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[rng.choice((at, rng.randrange(len(other) + 1))) :]


def _borrow(data: bytes, rng: Random, other: bytes) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 100))
    return data[:at] + other[at : at + size] + data[at + size :]


_BLIND = (_flip, _flip, _flip, _set, _cut, _extend, _remove, _insert, _swap, _splice, _borrow)
