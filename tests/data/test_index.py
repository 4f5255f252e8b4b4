import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdinfer.data.encoding import Plan
from cdinfer.data.export import export
from cdinfer.data.index import parse_index, read_index, read_raw
from cdinfer.data.layout import Item, find_pictures
from cdinfer.data.shards import ShardDataset
from cdinfer.data.writer import Encoded, pack_shard, publish
from tests.data.test_reader import read_everything

Change = Callable[[dict[str, Any], dict[str, Any]], object]

#: What it does to the index and to the entry of val-00000.
CHANGES: dict[str, Change] = {
    "offset beyond the file": lambda i, e: e["blocks"].__setitem__(0, [10**6, 10, 1, 6, 8]),
    "offset that is huge": lambda i, e: e["blocks"].__setitem__(0, [10**30, 10, 1, 6, 8]),
    "negative offset": lambda i, e: e["blocks"][0].__setitem__(0, -512),
    "negative length": lambda i, e: e["blocks"][0].__setitem__(1, -1),
    "negative count": lambda i, e: e["blocks"][0].__setitem__(2, -3),
    "no count": lambda i, e: e["blocks"][0].__setitem__(2, 0),
    "huge count": lambda i, e: e["blocks"][0].__setitem__(2, 10**12),
    "count too high": lambda i, e: e["blocks"][0].__setitem__(2, 4),
    "count too low": lambda i, e: e["blocks"][0].__setitem__(2, 2),
    "huge file": lambda i, e: e.update(bytes=10**18, blocks=[[0, 10**18, 10**16, 6, 8]] * 3),
    "64-bit counts": lambda i, e: e.update(bytes=2**70, blocks=[[0, 2**70, 2**65, 6, 8]] * 3),
    "latent size beyond 64 bits": lambda i, e: e["blocks"][0].__setitem__(4, 2**64),
    "stride beyond 64 bits": lambda i, e: i.update(stride=2**64),
    "infinite count": lambda i, e: e["blocks"][0].__setitem__(2, float("inf")),
    "count that is none": lambda i, e: e["blocks"][0].__setitem__(2, None),
    "other latent size": lambda i, e: e["blocks"][0].__setitem__(3, 7),
    "huge latent size": lambda i, e: e["blocks"][0].__setitem__(3, 10**30),
    "short block": lambda i, e: e["blocks"][0].pop(),
    "block too many": lambda i, e: e["blocks"].append([512, 700, 1, 6, 8]),
    "targets beyond the file": lambda i, e: e["targets"].__setitem__(0, [10**6, 10]),
    "negative targets": lambda i, e: e["targets"].__setitem__(0, [-1, 10]),
    "targets too few": lambda i, e: e["targets"].pop(),
    "other targets": lambda i, e: e["targets"].__setitem__(0, e["targets"][1]),
    "path that escapes": lambda i, e: e.update(name="../val-00000"),
    "path that is absolute": lambda i, e: e.update(name="/etc/passwd"),
    "path of a folder": lambda i, e: e.update(name=".."),
    "path with a zero": lambda i, e: e.update(name="val-0\0"),
    "no name": lambda i, e: e.pop("name"),
    "no bytes": lambda i, e: e.pop("bytes"),
    "other format": lambda i, e: i.update(format=2),
    "no format": lambda i, e: i.pop("format"),
    "no splits": lambda i, e: i.pop("splits"),
    "splits that are a list": lambda i, e: i.update(splits=[]),
    "no mark of completion": lambda i, e: i.pop("complete"),
    "other stream": lambda i, e: i.update(stream="00000000"),
    "stream that is a number": lambda i, e: i.update(stream=7),
    "stream that is no number": lambda i, e: i.update(stream="no"),
    "no number of samples": lambda i, e: e.pop("count"),
    "count that is a text": lambda i, e: e.update(count="8"),
    "sum that is none": lambda i, e: e.update(sha256=None),
    "sum that is no number": lambda i, e: e.update(targets_sha256="xy"),
    "skipped that is a number": lambda i, e: e.update(skipped=5),
    "skipped without a key": lambda i, e: e.update(skipped=[[]]),
    "no stride": lambda i, e: i.update(stride=0),
    "other stride": lambda i, e: i.update(stride=16),
    "infinite rate": lambda i, e: i.update(bpp=10**400),
    "rate that is none": lambda i, e: i.update(bpp=None),
    "resize that is a text": lambda i, e: i["preprocessing"].update(resize="256"),
    "no preprocessing": lambda i, e: i.update(preprocessing=None),
    "classes that are none": lambda i, e: i.update(classes=None),
    "no classes": lambda i, e: i.update(classes=[]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_hostile_index_is_one_line_naming_a_file(copy: Path, change: str) -> None:
    path = copy / "index.json"
    index = json.loads(path.read_text())
    CHANGES[change](index, index["splits"]["val"][0])
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"^[^\n]*{copy}[^\n]* again$"):
        read_everything(copy)


@pytest.mark.parametrize(
    "change",
    ["offset beyond the file", "offset that is huge", "huge count", "targets beyond the file"],
)
def test_places_outside_a_tar_are_refused_before_it_is_opened(copy: Path, change: str) -> None:
    path = copy / "index.json"
    index = json.loads(path.read_text())
    CHANGES[change](index, index["splits"]["val"][0])
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"the blocks of val-00000 cannot be where it says"):
        read_index(copy)


def test_counts_that_add_up_to_more_than_64_bits_are_refused(copy: Path) -> None:
    path = copy / "index.json"
    index = json.loads(path.read_text())
    entry = index["splits"]["val"][0]
    entry.update(bytes=2**61, blocks=[[0, 2**61, 2**58, 6, 8]] * 40, targets=[[0, 1]] * 40)
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"damaged .*index\.json: its shards are larger than any"):
        read_index(copy)


def test_an_index_is_read_and_checked_in_one_go(copy: Path) -> None:
    text, raw, checked = read_raw(copy)
    assert text == (copy / "index.json").read_bytes()
    assert raw == json.loads(text)
    assert checked == parse_index(text, "here") == read_index(copy)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1e999}']
)
def test_an_index_that_is_none_is_one_line(copy: Path, content: bytes) -> None:
    (copy / "index.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^damaged [^\n]*index\.json: [^\n]+ again$"):
        read_index(copy)


def test_every_truncation_of_the_index_is_noticed(copy: Path) -> None:
    path = copy / "index.json"
    text = path.read_bytes()
    for length in range(0, len(text) - 2, 7):
        path.write_bytes(text[:length])
        with pytest.raises(ValueError, match=r"damaged .*index\.json"):
            read_index(copy)


def test_a_set_without_its_codec_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "codec")
    with pytest.raises(ValueError, match=r"codec"):
        ShardDataset(copy, "val", None)


def test_a_folder_without_shards_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no shards in .*: cdinfer export makes them"):
        ShardDataset(tmp_path, "train", None)


def test_an_interrupted_export_is_refused_with_the_remedy(copy: Path) -> None:
    path = copy / "index.json"
    path.write_text(path.read_text().replace('"complete":true', '"complete":false'))
    with pytest.raises(ValueError, match=r"was interrupted: run the same export again"):
        ShardDataset(copy, "train", None)


def test_the_one_sample_layout_is_for_others(
    mixed_scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    export(find_pictures(mixed_scenes), tmp_path / "plain", tiny_codec, Plan(block=1))
    with pytest.raises(ValueError, match=r"with --block 1, for other readers: export it without"):
        ShardDataset(tmp_path / "plain", "train", None)


@pytest.mark.slow
def test_a_million_pictures_open_in_little_memory(mixed: Path, tmp_path: Path) -> None:
    raw = json.loads((mixed / "index.json").read_text())
    data = ShardDataset(mixed, "val", None, whole=True)
    size = data.reader.entries[0][2][-2:]
    items = [Item(f"train/right/{number:08d}.jpg", number % 2) for number in range(8192)]
    encoded = [Encoded(item, data.file(0), size) for item in items]
    made = pack_shard("train-00000", encoded, 512, True)
    publish(tmp_path, made)
    for number in range(1, 123):
        for ending in (".tar", ".targets.tar"):
            os.link(tmp_path / f"train-00000{ending}", tmp_path / f"train-{number:05d}{ending}")
    entries = [made.entry | {"name": f"train-{number:05d}"} for number in range(123)]
    raw["splits"] = {"train": entries}
    (tmp_path / "index.json").write_text(json.dumps(raw))
    shutil.copytree(mixed / "codec", tmp_path / "codec")
    tracemalloc.start()
    try:
        assert read_index(tmp_path).splits["train"].samples == 1_007_616
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        opened = ShardDataset(tmp_path, "train", 32)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
        assert opened.labels.sum() == 503_808
        assert opened[1_007_615]["index"].tolist() == [1_007_615]
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()
