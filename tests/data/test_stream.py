import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cdinfer.codecs.zoo import find_codec, load_codec
from cdinfer.data.draws import Draw
from cdinfer.data.export import Plan, export
from cdinfer.data.index import read_index
from cdinfer.data.layout import find_pictures
from cdinfer.data.shards import ShardDataset
from cdinfer.data.stream import StreamDataset
from tests.bitstream.servers import Site, serve
from tests.conftest import draw

#: No waiting in tests.
AT_ONCE = (0.0, 0.0, 0.0)

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def latents(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 26 pictures for training, in shards of 7 and blocks of 3, and 7 for validation."""
    root = tmp_path_factory.mktemp("latents")
    for split, count in (("train", 26), ("val", 7)):
        for i in range(count):
            path = root / "photos" / split / ("left", "right")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(*[(48, 64), (41, 57)][i % 2], seed=count * i)).save(path)
    export(find_pictures(root / "photos"), root / "set", tiny_codec, Plan(block=3, per_shard=7))
    return root / "set"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(latents: Path, tmp_path: Path) -> Iterator[Site]:
    """A server of a copy of the set."""
    with serve(Path(shutil.copytree(latents, tmp_path / "copy"))) as site:
        yield site


def stream(url: str | Site, split: str = "train", crop: int | None = 32, **options: Any) -> Any:
    url = url if isinstance(url, str) else url.url
    defaults: Batch = {"batch_size": 4, "train": split == "train", "delays": AT_ONCE}
    return StreamDataset(url, split, crop, **{**defaults, **options})


def load(data: StreamDataset, workers: int = 0) -> list[Batch]:
    return list(DataLoader(data, batch_size=None, num_workers=workers))


def numbers(batches: list[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch["index"]]


def assert_equal(batch: Batch, other: Batch) -> None:
    assert batch.keys() == other.keys()
    for name in batch.keys() - {"planes"}:
        assert torch.equal(batch[name], other[name]), name
    for name, plane in batch["planes"].items():
        assert plane.dtype == torch.uint8
        assert torch.equal(plane, other["planes"][name])


# The same batches as from a local folder


@pytest.mark.parametrize("kind", ["http", "http without ranges", "file", "pipe"])
def test_streams_give_what_the_folder_gives(site: Site, latents: Path, kind: str) -> None:
    site.ranges = kind == "http"
    url = {"file": f"file://{latents}", "pipe": f"pipe:cat {latents}/{{}}"}.get(kind, site.url)
    local = ShardDataset(latents, "val", 32)
    batches = load(stream(url, "val"))
    assert [len(batch["index"]) for batch in batches] == [4, 3]
    assert numbers(batches) == list(range(7))
    for batch in batches:
        assert_equal(batch, local.__getitems__(batch["index"].tolist()))


@pytest.mark.parametrize("crop_latents", [True, False])
def test_training_crops_are_those_of_the_folder(latents: Path, crop_latents: bool) -> None:
    local = ShardDataset(latents, "train", 32, crop_latents, seed=3)
    data = stream(f"file://{latents}", crop_latents=crop_latents, seed=3)
    data.set_epoch(5)
    for batch in data:
        assert_equal(batch, local.__getitems__([Draw(5, n) for n in batch["index"].tolist()]))


def test_a_batch_is_one_decoding_call(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls = stream(f"file://{latents}"), []
    unpack = data.batcher.codec.unpack

    def counting(files: list[Any]) -> Batch:
        calls.append(len(files))
        return dict(unpack(files))

    monkeypatch.setattr(data.batcher.codec, "unpack", counting)
    assert len(load(data)) == len(calls) == len(data) == 7
    assert set(calls) == {4}


# Epochs


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_validation_is_shared_out_exactly(site: Site, world: int, workers: int) -> None:
    parts = [
        load(stream(site, "val", rank=r, world=world, batch_size=2), workers) for r in range(world)
    ]
    assert sorted(n for part in parts for n in numbers(part)) == list(range(7))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_training_is_equal_steps_and_every_sample(site: Site, world: int, workers: int) -> None:
    parts = [load(stream(site, rank=r, world=world), workers) for r in range(world)]
    steps = -(-26 // (4 * world))
    assert [len(part) for part in parts] == [steps] * world
    seen = Counter(n for part in parts for n in numbers(part))
    assert sorted(seen) == list(range(26))
    assert max(seen.values()) <= 2
    assert sum(seen.values()) == steps * 4 * world


def test_more_processes_than_shards_and_samples_end(latents: Path) -> None:
    url, world = f"file://{latents}", 12
    whole = [numbers(load(stream(url, "val", rank=r, world=world))) for r in range(world)]
    assert sorted(n for part in whole for n in part) == list(range(7))
    assert [] in whole
    train = [stream(url, rank=r, world=world, batch_size=2) for r in range(world)]
    assert [len(load(data)) for data in train] == [len(data) for data in train] == [2] * world


def test_an_epoch_is_a_function_of_seed_and_epoch(latents: Path) -> None:
    def order(seed: int, epoch: int, workers: int = 0) -> list[int]:
        data = stream(f"file://{latents}", seed=seed)
        data.set_epoch(epoch)
        return numbers(load(data, workers))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2, workers=2) == order(1, 2, workers=2)
    assert sorted(set(order(1, 2))) == list(range(26))
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (2, 3)}) == 4


def test_samples_are_mixed_within_the_buffer(latents: Path) -> None:
    url = f"file://{latents}"
    near = numbers(load(stream(url, buffer=1)))
    jumps = [b - a for a, b in pairwise(near)]
    assert jumps.count(1) >= 26 - 4  # shards whole, one after the other
    far = numbers(load(stream(url, buffer=26)))
    assert sum(b - a == 1 for a, b in pairwise(far)) < 10


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(latents: Path, workers: int) -> None:
    data = stream(f"file://{latents}", seed=1)
    data.set_epoch(3)
    whole = load(data, workers)
    for skip in (1, 4, 7):
        data.set_epoch(3, skip)
        rest = load(data, workers)
        assert len(rest) == 7 - skip
        for batch, expected in zip(rest, whole[skip:], strict=True):
            assert_equal(batch, expected)


def test_only_the_blocks_of_a_share_are_asked_for(site: Site) -> None:
    entry = read_index(site.root).splits["val"].shards[0].blocks[1]
    data = stream(site, "val", rank=1, world=2)
    site.asked.clear()
    assert numbers(load(data)) == [3, 4, 5, 6]
    assert site.asked[0] == ("val-00000.tar", entry.offset)


# Faults


def test_a_connection_cut_in_a_shard_is_taken_up_again(site: Site, latents: Path) -> None:
    expected = load(stream(f"file://{latents}"))
    for ranges in (True, False):
        data = stream(site)
        tars = ("train-00000.tar", "train-00001.tar", "train-00002.targets.tar")
        site.ranges, site.cuts = ranges, dict.fromkeys(tars, (700, 1))
        site.asked.clear()
        for batch, other in zip(load(data), expected, strict=True):
            assert_equal(batch, other)
        assert {name: times for name, (_, times) in site.cuts.items()} == dict.fromkeys(tars, 0)
        assert (("train-00001.tar", 700) in site.asked) == ranges


def failure(data: StreamDataset, workers: int) -> str:
    """Return the error of an epoch."""
    batches = iter(DataLoader(data, batch_size=None, num_workers=workers))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        list(batches)
    if workers:
        batches._shutdown_workers()  # left to Python it takes five seconds
    return str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_connection_that_stays_cut_is_named_and_no_short_epoch(site: Site, workers: int) -> None:
    data = stream(site)
    site.cuts = {"train-00001.tar": (700, 99)}
    assert f"{site.url}/train-00001.tar broke off at byte 700, 4 times" in failure(data, workers)


def test_a_shard_that_is_gone_is_named(site: Site) -> None:
    data = stream(site, on_error="skip")
    (site.root / "train-00001.tar").unlink()
    with pytest.raises(ValueError, match=r"^cannot read .*/train-00001.tar: HTTP 404 [^\n]+$"):
        load(data)


def test_a_shard_of_another_length_is_named(site: Site) -> None:
    data = stream(site)
    path = site.root / "train-00001.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(ValueError, match=r"^damaged .*/train-00001.tar: expected \d+ bytes, got"):
        load(data)


def spoil(site: Site, name: str, at: int, data: bytes) -> None:
    content = bytearray((site.root / name).read_bytes())
    content[at : at + len(data)] = data
    (site.root / name).write_bytes(content)


def test_a_block_that_was_changed_is_named(site: Site) -> None:
    entry = read_index(site.root).splits["train"].shards[1].blocks[1]
    data = stream(site)
    spoil(site, "train-00001.tar", entry.offset, b"CDBX")
    where = rf"block 1 at byte {entry.offset} of {site.url}/train-00001.tar"
    with pytest.raises(ValueError, match=rf"^damaged {where}: [^\n]+$"):
        load(data)


def test_targets_that_were_changed_are_named(site: Site) -> None:
    offset, _ = read_index(site.root).splits["train"].shards[1].targets[2]
    data = stream(site)
    spoil(site, "train-00001.targets.tar", offset + 20, b"xxxx")
    with pytest.raises(ValueError, match=r"^damaged .*/train-00001.targets.tar, block 2: [^\n]+$"):
        load(data)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_was_changed_is_named_with_its_key(site: Site, workers: int) -> None:
    entry = read_index(site.root).splits["train"].shards[2].blocks[0]
    data = stream(site)
    spoil(site, "train-00002.tar", entry.offset + entry.length - 3, b"xxx")
    where = rf"damaged block 0 at byte {entry.offset} of {site.url}/train-00002.tar"
    assert re.search(rf"{where}, key 'train/[^\n]*\.png': ", failure(data, workers))


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_damaged_can_be_skipped(site: Site, split: str) -> None:
    blocks = read_index(site.root).splits[split].shards[0].blocks
    spoil(site, f"{split}-00000.tar", blocks[0].offset, b"CDBX")
    spoil(site, f"{split}-00000.tar", blocks[1].offset + blocks[1].length - 3, b"xxx")
    bad = {0, 1, 2, 5}
    for world in (1, 2):
        options: Batch = {"world": world, "on_error": "skip"}
        with pytest.warns(
            UserWarning, match=rf"skipped .+ of {split}: damaged block [01] at byte "
        ):
            parts = [load(stream(site, split, rank=rank, **options)) for rank in range(world)]
        seen = [n for part in parts for n in numbers(part)]
        assert set(seen) == set(range(26 if split == "train" else 7)) - bad
        if split == "train":
            steps = -(-26 // (4 * world))
            assert [[len(b["index"]) for b in part] for part in parts] == [[4] * steps] * world
        else:
            assert len(seen) == 7 - len(bad)


def test_a_set_that_is_all_damaged_ends(site: Site) -> None:
    for name, shard in ((s.name, s) for s in read_index(site.root).splits["train"].shards):
        for block in shard.blocks:
            spoil(site, f"{name}.tar", block.offset, b"CDBX")
    with (
        pytest.warns(UserWarning, match="skipped .+ of train"),
        pytest.raises(ValueError, match=r"^every train sample of '.*' is damaged$"),
    ):
        load(stream(site, on_error="skip"))


# What is fetched first


def test_the_codec_is_found_by_the_url(site: Site, latents: Path, cache: Path) -> None:
    folder = find_codec(site.url)
    assert cache in folder.parents
    own = load_codec(str(latents))
    assert load_codec(site.url, own.bpp).stream == own.stream
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (latents / "codec").iterdir()}
    site.asked.clear()
    find_codec(site.url)
    assert site.asked == [("codec/codec.json", 0)]  # the rest lay in the cache
    with pytest.raises(ValueError, match=r"has a nominal rate of 0.33 bpp, not 0.635"):
        load_codec(site.url, 0.635)


def test_a_codec_that_is_damaged_there_never_reaches_the_cache(site: Site, cache: Path) -> None:
    path = site.root / "codec" / "tables.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"^damaged codec in http://.*: tables.safetensors is not"):
        stream(site)
    assert not list(cache.rglob("tables*"))
    path.write_bytes(content)
    stream(site)


def test_a_cache_that_was_damaged_is_filled_again(site: Site) -> None:
    folder = find_codec(site.url)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    stream(site)


def test_a_cache_that_cannot_be_written_is_one_line(site: Site, cache: Path) -> None:
    cache.write_bytes(b"no folder")
    with pytest.raises(ValueError, match=r"^cannot write to the cache '[^\n]+; set CDINFER_CACHE"):
        stream(site)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing came"),
        (b"{", r"^damaged http://.*/index.json: "),
        (b'{"format": 9}', "expected format 1, got 9"),
    ],
)
def test_an_index_that_is_none_is_one_line(site: Site, content: bytes, message: str) -> None:
    (site.root / "index.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        stream(site)


def test_no_set_there_is_one_line(site: Site) -> None:
    with pytest.raises(
        ValueError, match=r"^cannot read .*/no/index.json: HTTP 404 .*check the URL"
    ):
        stream(f"{site.url}/no")


CHANGES: dict[str, tuple[str, Any, str]] = {
    "names that lead elsewhere": ("name", "../../evil-0", "expected a shard's name like"),
    "blocks in another order": ("blocks", slice(None, None, -1), "train-00001 are not in order"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_hostile_index_reads_and_writes_nothing(site: Site, cache: Path, change: str) -> None:
    path = site.root / "index.json"
    raw = json.loads(path.read_text())
    field, value, message = CHANGES[change]
    entry = raw["splits"]["train"][1]
    entry[field] = entry[field][value] if isinstance(value, slice) else value
    path.write_text(json.dumps(raw))
    before = {p for p in cache.parent.rglob("*") if cache not in p.parents}
    with pytest.raises(ValueError, match=message):
        load(stream(site))
    assert {p for p in cache.parent.rglob("*") if cache not in p.parents} - before <= {cache}
    assert all(re.fullmatch(r"index\.json|codec/.+", name) for name, _ in site.asked)


def test_a_block_too_large_to_hold_is_refused(site: Site) -> None:
    path = site.root / "index.json"
    raw = json.loads(path.read_text())
    entry = raw["splits"]["train"][0]
    entry["bytes"] = 2**40
    entry["blocks"][-1][1] = 2**39
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"too large to stream: export it with a smaller --block"):
        stream(site)


def test_crops_that_cannot_be_are_refused_as_in_a_folder(site: Site, latents: Path) -> None:
    for crop in (30, 56):
        with pytest.raises(ValueError) as local:  # noqa: PT011
            ShardDataset(latents, "train", crop)
        with pytest.raises(
            ValueError, match=re.escape(str(local.value).replace(str(latents), site.url))
        ):
            stream(site, crop=crop)
    with pytest.raises(ValueError, match=r"has pictures of 2 sizes: give --data.crop 41"):
        load(stream(site, crop=None, crop_latents=False))


def test_a_split_that_is_not_there_is_named(site: Site) -> None:
    with pytest.raises(ValueError, match=r"^'http://.*' has no split more, only train, val"):
        stream(site, "more")


def test_buffers_are_bounded_in_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = np.mean(
        [b.length / b.samples for b in read_index(site.root).splits["val"].shards[0].blocks]
    )
    monkeypatch.setattr("cdinfer.data.stream.MAX_BUFFER", int(5 * mean))
    assert stream(site, "val").buffer in (4, 5)


@pytest.mark.slow
def test_s3_gives_what_the_folder_gives(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system = fsspec.filesystem("s3")
        system.mkdir("bucket")
        system.put(f"{latents}/", "bucket/set", recursive=True)
        assert load_codec("s3://bucket/set").stream == load_codec(str(latents)).stream
        for split in ("train", "val"):
            expected = load(stream(f"file://{latents}", split))
            for workers in (0, 2):
                found = load(stream("s3://bucket/set", split), workers)
                assert sorted(numbers(found)) == sorted(numbers(expected))
            for batch, other in zip(load(stream("s3://bucket/set", split)), expected, strict=True):
                assert_equal(batch, other)
        data = stream("s3://bucket/set")
        system.rm("bucket/set/train-00001.tar")
        with pytest.raises(ValueError, match=r"^cannot read s3://bucket/set/train-00001.tar: .+"):
            load(data)
        with pytest.raises(
            ValueError, match=r"^cannot read s3://bucket/no/index.json: .+ the URL$"
        ):
            stream("s3://bucket/no")
    finally:
        server.stop()
