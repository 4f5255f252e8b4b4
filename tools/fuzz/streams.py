"""``.cdi`` files and raw payloads, through `bitstream` and the commands that take files."""

import contextlib
import io
import itertools
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cdinfer.__main__ import main
from cdinfer.bitstream import BitstreamError, ContextModel, rans
from cdinfer.bitstream.container import Header, parse
from cdinfer.bitstream.files import read_files, write_files
from tools.fuzz.kinds import Case, Kind, Wrong
from tools.fuzz.mutate import NUMBERS, spoil, spoil_number

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
LETTERS, STRIDE = "CAE_", 8

Symbols = NDArray[np.uint8]


class Tables(NamedTuple):
    """What reads a stream."""

    model: ContextModel
    stream: int


class Original(NamedTuple):
    """A file that is whole, with what it holds: symbols ``(C, h, w)``, pixel size."""

    data: bytes
    tables: Tables
    symbols: Symbols
    size: tuple[int, int]


class Truth(NamedTuple):
    """What a file was made of, and whether its checksums were made right afterwards."""

    originals: tuple[Original, ...]
    signed: bool = False


def read_tables(folder: Path) -> Tables:
    """Return the tables of a codec's folder."""
    tensors = load_file(folder / "tables.safetensors")
    del tensors["centers"]
    stream = json.loads((folder / "codec.json").read_text())["stream"]
    return Tables(ContextModel(**tensors), int(stream, 16))


def golden() -> list[Original]:
    """Return the golden files."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    tables = {e["codec"]: read_tables(GOLDEN.parents[1] / e["codec"]) for e in expected.values()}
    originals = []
    for name, entry in expected.items():
        own, data = tables[entry["codec"]], (GOLDEN / name).read_bytes()
        (symbols,), (size,) = read_files([data], LETTERS, own.stream, own.model, STRIDE)
        originals.append(Original(data, own, symbols, size))
    return originals


def written(tables: Tables, fields: tuple[tuple[str, bytes], ...], rng: Random) -> Original:
    """Return a file of a small picture, with fields, in one to three channel groups."""
    channels = len(tables.model.sizes)
    size = rng.randint(1, 64), rng.randint(1, 64)
    shape = (channels, -(-size[0] // STRIDE), -(-size[1] // STRIDE))
    draws = np.random.default_rng(rng.getrandbits(32))
    symbols = draws.integers(0, tables.model.sizes[:, None, None], shape).astype(np.uint8)
    calm = np.where(draws.random(shape) < 0.8, tables.model.zeros[:, None, None], symbols)
    first = rng.randint(1, channels)
    groups = rng.choice([None, (first, channels - first)] if first < channels else [None])
    header = Header(LETTERS, tables.stream, *size, fields=fields)
    (data,) = write_files(calm[None], header, tables.model, groups)
    return Original(data, tables, calm, size)


def places(data: bytes) -> dict[str, tuple[int, int]]:
    """Return where the numbers of a header lie: name -> first byte, size (``FORMAT.md``)."""
    found = {
        "magic": (0, 4),
        "codec": (4, 4),
        "stream": (8, 4),
        "height": (12, 2),
        "width": (14, 2),
    }
    end = 16
    for name in ("height", "width"):
        if data[found[name][0] :][:2] == b"\0\0":
            found[f"{name}32"], end = (end, 4), end + 4
    found |= {"flags": (end, 1), "groups": (end + 1, 1)}
    flags, count, end = data[end], data[end + 1], end + 2
    for k in range(count if count > 1 else 0):
        found |= {f"channels {k}": (end, 1), f"length {k}": (end + 1, 4)}
        end += 5
    if flags & 2:
        found["fields"], end = (end, 1), end + 1
        for k in range(data[end - 1]):
            found |= {f"tag {k}": (end, 4), f"content {k}": (end + 4, 4)}
            end += 8 + int.from_bytes(data[end + 4 : end + 8], "little")
    found |= {f"crc {k}": (end + 4 * k, 4) for k in range(count)}
    return found


def sign(start: bytes, original: Original) -> bytes:
    """Return a changed start of ``original``, its checksums made right, and the old payloads."""
    parsed = parse(original.data)
    ends = [0, *parsed.header.ends(len(original.symbols))]
    crc = zlib.crc32(start)
    crcs = [zlib.crc32(original.symbols[a:b].tobytes(), crc) for a, b in itertools.pairwise(ends)]
    return start + struct.pack(f"<{len(crcs)}I", *crcs) + parsed.payload


class Container(Kind):
    """Whole files: blind changes; changed numbers, checksums left wrong or made right."""

    name = "container"

    def __init__(self, originals: Sequence[Original]) -> None:
        self.originals = originals

    def whole_case(self) -> Case:
        return Case({"file.cdi": self.originals[0].data}, "whole", Truth((self.originals[0],)))

    def make(self, rng: Random) -> Case:
        original, other = rng.choice(self.originals), rng.choice(self.originals)
        how = rng.random()
        if how < 0.4:
            data = spoil(original.data, rng, other.data)
            return Case({"file.cdi": data}, "blind", Truth((original, other)))
        if how < 0.95:
            data, about, signed = self._changed(original, rng)
            return Case({"file.cdi": data}, about, Truth((original,), signed))
        data, about = self._oversized(original, rng)
        return Case({"file.cdi": data}, about, Truth((original,)))

    def _changed(self, original: Original, rng: Random) -> tuple[bytes, str, bool]:
        """Change what stands before the checksums, and perhaps make them right."""
        where = places(original.data)
        first_crc = where["crc 0"][0]
        data, names = original.data, rng.sample(sorted(where), rng.choice((1, 1, 2)))
        if rng.random() < 0.2:
            start = spoil(data[:first_crc], rng)
            return sign(start, original), "blind before the checksums, which are right", True
        for name in names:
            data = spoil_number(data, *where[name], rng)
        if rng.random() < 0.5 and not names[0].startswith("crc"):
            return sign(data[:first_crc], original), f"{names}, checksums right", True
        return data, f"{names}", False

    def _oversized(self, original: Original, rng: Random) -> tuple[bytes, str]:
        """Claim as large a picture as the payload may hold, and sometimes a little more."""
        one = original.tables.model.least_bits.sum() * 7 / 8
        words = rng.choice((2, 50, 50, 600, 600, 600, 5_000, 150_000))
        payload = b"\0\0\1\0" + rng.choice((b"\0\0", b"\0\1", rng.randbytes(2))) * words
        area = min(2**23, 8 * len(payload) / one) * rng.choice((0.5, 0.99, 1, 1.01))
        height = min(max(1, round(area ** rng.random())), 2**28)
        sides = [min(STRIDE * side, 2**32 - 1) for side in (height, max(1, int(area / height)))]
        header = Header(LETTERS, original.tables.stream, *sides)
        flat = np.zeros(original.symbols.shape, np.uint8)
        (data,) = write_files(flat[None], header, original.tables.model)
        end = places(data)["crc 0"][0] + 4
        return data[:end] + payload, f"{sides} pixels in {len(payload)} bytes"

    def read(self, case: Case) -> None:
        (data,), truth = case.files.values(), case.truth
        tables = truth.originals[0].tables
        wanted = (LETTERS, tables.stream, tables.model, STRIDE)
        with contextlib.suppress(BitstreamError):
            for groups in range(1, len(parse(data, groups=1).header.groups)):
                symbols, _ = read_files([data], *wanted, groups=groups)
                self._compare(symbols[0], truth.originals)
        try:
            (symbols,), (size,) = read_files([data], *wanted)
        except BitstreamError as error:
            if error.index != 0:
                raise Wrong(f"the file is number 0, the error says {error.index}") from error
            self._read_among_others(data, case)
            raise
        if not truth.signed and data not in [whole.data for whole in truth.originals]:
            raise Wrong("a changed file is accepted")
        self._compare(symbols, truth.originals)
        header = parse(data).header
        if (header.height, header.width) != size:
            raise Wrong(f"{size} pixels, header {header}")

    def _compare(self, symbols: Symbols, originals: Sequence[Original]) -> None:
        if not any(np.array_equal(symbols, o.symbols[: len(symbols)]) for o in originals):
            raise Wrong(f"symbols {symbols.shape} are not those that were written")

    def _read_among_others(self, data: bytes, case: Case) -> None:
        """Raise if a file that is refused alone passes between two good ones."""
        original = case.truth.originals[0]
        tables = original.tables
        try:
            files = [original.data, data, original.data]
            read_files(files, LETTERS, tables.stream, tables.model, STRIDE)
        except BitstreamError as error:
            if error.index != 1:
                raise Wrong(f"the file is number 1, the error says {error.index}") from error
        except ValueError as error:
            if "in a call" not in str(error):
                raise
        else:
            raise Wrong("refused alone, accepted among others")


class Coder(Kind):
    """Payloads without a container: whatever decodes is what `rans.encode` writes."""

    name = "coder"
    errors = (BitstreamError,)

    def __init__(self, tables: Sequence[Tables]) -> None:
        self.tables = tables

    def whole_case(self) -> Case:
        model = self.tables[0].model
        symbols = np.zeros((4, len(model.sizes), 2, 3), np.uint8)
        names = {f"{n}.payload": payload for n, payload in enumerate(rans.encode(symbols, model))}
        return Case(names, "whole", (model, symbols, 0, 0))

    def make(self, rng: Random) -> Case:
        model = rng.choice(self.tables).model
        channels = rng.randint(1, len(model.sizes))
        shape = (rng.choice((1, 2, 4, 5)), channels, rng.randint(1, 9), rng.randint(1, 9))
        draws = np.random.default_rng(rng.getrandbits(32))
        symbols = draws.integers(0, model.sizes[:channels, None, None], shape).astype(np.uint8)
        first = rng.choice((0, 0, rng.randrange(channels)))
        payloads = rans.encode_more(symbols, model, first)
        at = rng.randrange(shape[0])
        how = rng.random()
        if how < 0.7:
            payloads[at] = spoil(payloads[at], rng, rng.choice(payloads))
        elif how < 0.9:
            payloads[at] = rng.randbytes(2 * rng.randint(2, 300))
        else:
            words = [rng.choice(NUMBERS) % 2**16 for _ in range(rng.randint(2, 30))]
            payloads[at] = struct.pack(f"<{len(words)}H", *words)
        names = {f"{n}.payload": payload for n, payload in enumerate(payloads)}
        return Case(names, f"payload {at} of {shape}, channels from {first}",
                    (model, symbols, first, at))  # fmt: skip

    def read(self, case: Case) -> None:
        payloads, (model, symbols, first, at) = [*case.files.values()], case.truth
        before = np.ascontiguousarray(symbols[:, :first])
        try:
            found = rans.decode_more(payloads, model, before, symbols.shape[1])
        except BitstreamError as error:
            if error.index != at:
                raise Wrong(f"payload {at} is damaged, the error says {error.index}") from error
            raise
        if rans.encode_more(found, model, first) != payloads:
            raise Wrong("it decodes, but encoding does not give it back")
        keep = np.arange(len(payloads)) != at
        if not np.array_equal(found[keep], symbols[keep]):
            raise Wrong("a damaged payload changed its neighbours")


class Commands(Kind):
    """``cdinfer info`` and ``cdinfer decode`` on files, many with a damaged EXIF or profile."""

    name = "commands"

    def __init__(self, folder: Path, codec: Path, originals: Sequence[Original]) -> None:
        self.path, self.codec = folder / "file.cdi", codec
        self.container = Container(originals)

    def whole_case(self) -> Case:
        return self.container.whole_case()

    def make(self, rng: Random) -> Case:
        original = rng.choice(self.container.originals)
        fields = parse(original.data).header.fields
        if rng.random() < 0.5 or not fields:
            return self.container.make(rng)
        start = original.data[: places(original.data)["crc 0"][0]]
        tag, content = rng.choice(fields)
        spoilt = spoil(content, rng, original.data)
        lengths = [struct.pack("<I", len(part)) + part for part in (content, spoilt)]
        return Case(
            {"file.cdi": sign(start.replace(*lengths), original)}, f"{tag}, checksums right"
        )

    def read(self, case: Case) -> None:
        self.path.write_bytes(case.files["file.cdi"])
        out = self.path.with_suffix(".png")
        decode = ["decode", "--codec", str(self.codec), "--overwrite", "-o", str(out)]
        results = [_run([*command, str(self.path)]) for command in (["info", "--json"], decode)]
        out.unlink(missing_ok=True)
        if results[1]:
            raise ValueError(results[1])


def _run(args: list[str]) -> str:
    """Run a command here and return its one line of error, empty if there is none.

    Raises:
        RuntimeError: if the exit status does not fit what it says, or it says too much.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(args)
    lines = err.getvalue().splitlines()
    notes = [line for line in lines if " are left out, they are damaged" in line]
    errors = [line for line in lines if line not in notes]
    if (status, len(errors)) not in ((0, 0), (1, 1), (2, 1)) or len(notes) > 1:
        raise RuntimeError(f"status {status}: {err.getvalue()}")
    return "".join(errors)
