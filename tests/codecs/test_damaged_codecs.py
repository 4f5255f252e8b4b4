"""Whatever is wrong with a codec's folder ends in one clear error, at once."""

import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdinfer.bitstream import ContextModel
from cdinfer.codecs import load_codec
from cdinfer.codecs.stored import FILES
from cdinfer.codecs.zoo import find_codec


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of ``codec.json``; ``None`` removes one."""
    path = folder / "codec.json"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


def sign(folder: Path) -> None:
    """Make ``codec.json`` vouch for whatever the other files are now."""
    edit(folder, sha256={f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in FILES})


def refused(folder: Path) -> str:
    """Return the one-line error of loading, however the codec is named."""
    with pytest.raises(ValueError, match=r"^damaged .*; copy the (codec )?folder again$") as caught:
        load_codec(str(folder.parent))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_truncated_description_is_refused(folder: Path, length: int) -> None:
    path = folder / "codec.json"
    path.write_bytes(path.read_bytes()[:length])
    refused(folder)
    with pytest.raises(ValueError, match="damaged"):
        find_codec("cae", 0.33)


@pytest.mark.parametrize("text", ["[]", "3", '"cae"', "null", "[" * 100_000, "\xff"])
def test_a_description_of_another_kind_is_refused(folder: Path, text: str) -> None:
    (folder / "codec.json").write_text(text, "latin-1")
    refused(folder)


@pytest.mark.parametrize("field", ["format", "name", "bpp", "width", "stream", "sha256"])
def test_a_description_without_a_field_is_refused(folder: Path, field: str) -> None:
    edit(folder, **{field: None})
    assert field in refused(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_truncated_files_are_refused(folder: Path, name: str, length: int) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:length])
    assert f"{name} is not the file" in refused(folder)
    sign(folder)
    refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_codec_are_refused(folder: Path, other_codec: Path, name: str) -> None:
    shutil.copy(other_codec / name, folder)
    assert f"{name} is not the file" in refused(folder)


def test_tables_of_another_codec_are_refused_even_when_vouched_for(
    folder: Path, other_codec: Path
) -> None:
    shutil.copy(other_codec / "tables.safetensors", folder)
    sign(folder)
    assert "tables and centers give stream" in refused(folder)


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_under_the_name_of_a_file_is_refused_and_not_run(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Trap()))
    sign(folder)
    refused(folder)
    assert not Path("sprung").exists()


def test_weights_of_another_width_design_or_precision_are_refused(folder: Path) -> None:
    for changes in ({"width": 0.5}, {"name": "cae-paper"}, {"bpp": 0.635}):
        before = json.loads((folder / "codec.json").read_text())
        edit(folder, **changes)
        assert "other layers" in refused(folder)
        edit(folder, **before)
    weights = load_file(folder / "encoder.safetensors")
    save_file({n: w.float() for n, w in weights.items()}, folder / "encoder.safetensors")
    sign(folder)
    assert "other layers" in refused(folder)


TABLES: list[tuple[str, Callable[[torch.Tensor], torch.Tensor | None]]] = [
    *((name, lambda t: None) for name in (*ContextModel.__dataclass_fields__, "centers")),
    *((name, lambda t: t[:-1].clone()) for name in ("sizes", "zeros", "frequencies", "centers")),
    *((name, lambda t: t.float()) for name in (*ContextModel.__dataclass_fields__,)),
    *((name, lambda t: t.flatten()[0].clone()) for name in ("sizes", "zeros", "mean_taps")),
    *((name, lambda t: t[None]) for name in ("sizes", "frequencies", "mean_edges", "centers")),
    ("sizes", lambda t: torch.full_like(t, 60000)),
    ("sizes", lambda t: t[:0].clone()),
    ("sizes", lambda t: t.bfloat16()),
    ("zeros", lambda t: torch.full_like(t, 255)),
    ("mean_taps", lambda t: torch.full_like(t, 9)),
    ("mean_taps", lambda t: torch.full((200_000, 5), -(2**15), dtype=torch.int16)),
    ("activity_taps", lambda t: -t),
    ("mean_edges", lambda t: torch.zeros((300_000, 2), dtype=torch.int16)),
    ("frequencies", lambda t: torch.zeros_like(t)),
    ("frequencies", lambda t: torch.ones((2**20, 1), dtype=torch.uint16)),
    ("centers", lambda t: -t),
    ("centers", lambda t: t.double()),
    ("centers", lambda t: torch.full_like(t, torch.nan)),
    ("centers", lambda t: torch.where(t == t.max(), torch.inf, t)),
    ("centers", lambda t: t + 1e-3),  # still rising: the stream id tells
    ("more", lambda t: torch.zeros(3)),
]


@pytest.mark.parametrize(("part", "change"), TABLES)
def test_tables_that_are_none_are_refused_at_once(
    folder: Path, part: str, change: Callable[[torch.Tensor], torch.Tensor | None]
) -> None:
    parts = load_file(folder / "tables.safetensors")
    changed = change(parts.pop(part, torch.zeros(1)))
    save_file(parts if changed is None else parts | {part: changed}, folder / "tables.safetensors")
    sign(folder)
    start = time.process_time()
    refused(folder)
    assert time.process_time() - start < 2


def test_an_edited_table_is_refused(folder: Path) -> None:
    parts = load_file(folder / "tables.safetensors")
    row = parts["frequencies"][0].int()
    row[row.argmax()] -= 1
    row[0] += 1
    parts["frequencies"][0] = row.to(torch.uint16)
    save_file(parts, folder / "tables.safetensors")
    sign(folder)
    assert "stream" in refused(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 1e9),
        ("width", 10**30),
        ("width", "wide"),
        ("width", [1]),
        ("bpp", 0.4),
        ("bpp", "0.33"),
        ("bpp", [0.33]),
        ("name", "hyperprior"),
        ("name", ["cae"]),
        ("name", {}),
        ("format", 1),
        ("stream", 7),
        ("sha256", None),
        ("sha256", {}),
        ("sha256", {"encoder.safetensors": ["00"]}),
    ],
)
def test_hostile_descriptions_are_refused_at_once(folder: Path, field: str, value: Any) -> None:
    edit(folder, **{field: value})
    start = time.process_time()
    refused(folder)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", ["codec.json", *FILES])
def test_huge_files_are_refused_unread(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no space
    assert "larger than" in refused(folder)


@pytest.mark.parametrize("shares", ["", "..", "../..", "/etc", "a\0b", "x" * 5000, 7, ["a"]])
def test_a_hostile_neighbour_is_refused(folder: Path, shares: Any) -> None:
    (folder / "decoder.safetensors").unlink()
    edit(folder, shares=shares)
    refused(folder)
