"""Files that must decode for ever, as they always did.

``tests/golden`` was written once and may only grow: ``expected.json`` says of each file which
folder its codec is in, what its header says, and the SHA-256 of the symbols of its first channel
group, of its first two, and so on.
"""

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cdinfer.bitstream import ContextModel, Header, parse, stream_id
from cdinfer.bitstream.files import read_files, write_files
from cdinfer.bitstream.rans import CODER

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def read_model(codec: str) -> tuple[ContextModel, np.ndarray, int]:
    """Context model, centers and stream id of a codec's folder."""
    tensors = load_file(ROOT / codec / "tables.safetensors")
    centers = tensors.pop("centers")
    stream = json.loads((ROOT / codec / "codec.json").read_text())["stream"]
    return ContextModel(**tensors), centers, int(stream, 16)


def test_every_golden_file_is_expected_and_there() -> None:
    found = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*.cdi")}
    assert found == set(EXPECTED)
    assert len(found) >= 10


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_reads_and_writes_as_it_always_did(name) -> None:
    data, expected = (GOLDEN / name).read_bytes(), EXPECTED[name]
    model, _, stream = read_model(expected["codec"])
    size = expected["height"], expected["width"]
    header = Header("CAE_", stream, *size, provisional=expected["provisional"])
    header = header._replace(
        groups=tuple(expected["groups"]),
        fields=tuple((tag, bytes.fromhex(content)) for tag, content in expected["fields"].items()),
    )
    assert parse(data).header == header
    for groups, sha256 in enumerate(expected["sha256"], 1):
        symbols, sizes = read_files([data], "CAE_", stream, model, 8, groups=groups)
        assert hashlib.sha256(symbols).hexdigest() == sha256
    symbols, sizes = read_files([data], "CAE_", stream, model, 8)
    assert (list(symbols.shape[1:]), sizes) == (expected["shape"], [size])
    assert write_files(symbols, header, model, header.groups or None) == [data]


@pytest.mark.parametrize("codec", sorted({expected["codec"] for expected in EXPECTED.values()}))
def test_golden_streams_are_identified_as_they_always_were(codec) -> None:
    model, centers, stream = read_model(codec)
    assert [field.name for field in fields(model)] == [
        "sizes", "zeros", "mean_taps", "activity_taps", "mean_edges", "activity_edges",
        "frequencies",
    ]  # fmt: skip
    shape = np.array(centers.shape, "<u4").tobytes()
    assert stream_id(b"CAE_", CODER, shape, centers.tobytes(), model.pack()) == stream


def test_the_worked_example_of_the_format_is_a_golden_file() -> None:
    text = (ROOT / "cdinfer" / "bitstream" / "FORMAT.md").read_text("utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("    43 44 49 31"))
    assert bytes.fromhex(line) == (GOLDEN / "example" / "small.cdi").read_bytes()
    model, _, stream = read_model("tests/golden/example")
    assert f"`{stream:08x}`" in text
    for number, row in enumerate(model.frequencies.tolist()):
        assert re.search(rf"row {number} +{row[0]} +{row[1]} +{row[2]} ", text)
