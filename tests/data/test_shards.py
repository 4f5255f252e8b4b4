import bz2
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from cdinfer.codecs import CAE, load_codec
from cdinfer.data.draws import Draw, EpochSampler
from cdinfer.data.export import Plan, export
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.index import read_index
from cdinfer.data.layout import find_pictures
from cdinfer.data.shards import ShardDataset
from tests.conftest import draw

#: Heights and widths of the pictures; the first two share the latent size 6 x 8.
SIZES = [(48, 64), (41, 57), (64, 48)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three sizes: 20 for training, 6 each for validation and test."""
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 20), ("val", 6), ("test", 6)):
        for i in range(count):
            path = root / split / ("left", "right")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(*SIZES[i % 3], seed=100 * count + i)).save(path)
    return root


@pytest.fixture(scope="module")
def mixed(scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as shards of at most 7 pictures in blocks of at most 3."""
    folder = tmp_path_factory.mktemp("mixed") / "shards"
    export(find_pictures(scenes), folder, tiny_codec, Plan(block=3, per_shard=7))
    return folder


@pytest.fixture(scope="module")
def equal(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 12 pictures of 48 x 64, 9 and 3."""
    root = tmp_path_factory.mktemp("equal")
    for i in range(12):
        path = root / "photos" / ("train", "val")[i % 4 == 3] / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(48, 64, seed=i)).save(path)
    export(find_pictures(root / "photos"), root / "shards", tiny_codec, Plan(block=4))
    return root / "shards"


@pytest.fixture
def copy(mixed: Path, tmp_path: Path) -> Path:
    """The mixed set, to be damaged."""
    return Path(shutil.copytree(mixed, tmp_path / "shards"))


class Counting:
    """A codec that remembers the files of every call of ``unpack``."""

    planes = CAE.planes

    def __init__(self, codec: CAE) -> None:
        self.codec, self.calls = codec, list[Sequence[bytes]]()

    def unpack(self, data: Sequence[bytes]) -> dict[str, Tensor]:
        self.calls.append(data)
        return self.codec.unpack(data)


def symbols(codec: Path, picture: Path) -> Tensor:
    return load_codec(str(codec)).symbols(to_tensor(read_image(picture))[None])[0]


# What is written


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_stock_webdataset_opens_both_tars(mixed: Path, scenes: Path) -> None:
    found = []
    for tar in sorted(mixed.glob("train-?????.tar")):
        targets = tar.with_suffix(".targets.tar")
        blocks = list(webdataset.WebDataset(str(tar), shardshuffle=False))
        labels = list(webdataset.WebDataset(str(targets), shardshuffle=False))
        assert [b["__key__"] for b in blocks] == [t["__key__"] for t in labels]
        assert [b["__key__"] for b in blocks] == [f"{tar.stem}-{i:04d}" for i in range(len(blocks))]
        assert all(block["cdb"].startswith(b"CDB0CAE_") for block in blocks)
        found += [json.loads(bz2.decompress(target["json.bz2"])) for target in labels]
    classes = ["left", "right"]
    rows = [row for content in found for row in content["samples"]]
    assert sorted(key for _, key in rows) == sorted(
        str(path.relative_to(scenes)) for path in scenes.glob("train/*/*.png")
    )
    assert all(classes[label] == key.split("/")[1] for label, key in rows)


def test_pictures_are_permuted_before_they_are_cut(mixed: Path, scenes: Path) -> None:
    data = ShardDataset(mixed, "train", None, check_crop=False)
    listed = [item.key for item in find_pictures(scenes).splits["train"]]
    assert sorted(data.keys()) == listed
    assert {key.split("/")[1] for key in listed[:7]} == {"left"}
    assert set(data.labels[:7].tolist()) == {0, 1}


def test_index_lists_blocks_and_bytes(mixed: Path) -> None:
    raw = json.loads((mixed / "index.json").read_text())
    for entries in raw["splits"].values():
        for entry in entries:
            tar = mixed / f"{entry['name']}.tar"
            assert entry["bytes"] == tar.stat().st_size
            with tarfile.open(tar) as file:
                members = [[member.offset_data, member.size] for member in file.getmembers()]
            assert [block[:2] for block in entry["blocks"]] == members
            assert sum(block[2] for block in entry["blocks"]) == entry["count"]
    assert raw["complete"] is True
    assert raw["classes"] == ["left", "right"]


def test_a_set_holds_tars_json_and_safetensors_and_no_pickle(mixed: Path) -> None:
    suffixes = {path.suffix for path in mixed.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".tar", ".safetensors"}
    for tar in mixed.glob("*.tar"):
        with tarfile.open(tar) as file:
            for member in file:
                assert member.isreg()
                assert member.name.split(".", 1)[1] in ("cdb", "json.bz2")
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                assert (member.uname, member.gname) == ("", "")


# What is read


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_samples_are_the_encoders_symbols(
    mixed: Path, scenes: Path, tiny_codec: Path, split: str
) -> None:
    data = ShardDataset(mixed, split, None, check_crop=False)
    assert len(data) == len(data.keys()) == (20 if split == "train" else 6)
    for i, key in enumerate(data.keys()):
        sample = data[i]
        plane = sample["planes"]["y"]
        assert plane.dtype == torch.uint8
        assert torch.equal(plane[0], symbols(tiny_codec, scenes / key))
        assert sample["size"].tolist() == [list(read_image(scenes / key).shape[:2])]
        assert sample["label"].tolist() == [["left", "right"].index(key.split("/")[1])]
        assert sample["index"].tolist() == [i]
        assert sample["label"].dtype == sample["index"].dtype == torch.int64


def test_files_come_back_byte_for_byte(mixed: Path, scenes: Path, tiny_codec: Path) -> None:
    data, codec = ShardDataset(mixed, "val", None, check_crop=False), load_codec(str(tiny_codec))
    for i, key in enumerate(data.keys()):
        (file,) = codec.compress(to_tensor(read_image(scenes / key))[None])
        assert data.file(i) == file


def test_a_batch_is_one_call(equal: Path) -> None:
    data = ShardDataset(equal, "train", 32)
    counting = data.codec = Counting(data.codec)
    batch = data.__getitems__([8, 0, 5, 0])
    assert [len(call) for call in counting.calls] == [4]
    assert batch["index"].tolist() == [8, 0, 5, 0]
    assert batch["planes"]["y"].shape == (4, 16, 4, 4)
    assert torch.equal(batch["planes"]["y"][1], batch["planes"]["y"][3])


def test_a_call_never_mixes_latent_sizes(mixed: Path) -> None:
    data = ShardDataset(mixed, "train", 32)
    counting = data.codec = Counting(data.codec)
    order = list(range(20))
    batch = data.__getitems__(order)
    assert sorted(len(call) for call in counting.calls) == [6, 14]
    singles = [data[i] for i in order]  # and their results are put back in order
    for name in ("label", "size", "index"):
        assert torch.equal(batch[name], torch.cat([single[name] for single in singles]))
    assert torch.equal(batch["planes"]["y"], torch.cat([s["planes"]["y"] for s in singles]))


@pytest.mark.parametrize("crop", [8, 32, 48])
def test_crops_are_windows_of_the_whole_latents_on_the_grid(mixed: Path, crop: int) -> None:
    whole = ShardDataset(mixed, "train", None, check_crop=False)
    cropped = ShardDataset(mixed, "train", crop, seed=1)
    side = crop // 8
    batch = cropped.__getitems__([Draw(3, i) for i in range(20)])
    corners = set()
    for i, plane in enumerate(batch["planes"]["y"]):
        latents = whole[i]["planes"]["y"][0]
        windows = latents.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4)
        same = (windows == plane).flatten(2).all(-1).nonzero().tolist()
        assert same
        corners.add(tuple(same[0]))
    assert len(corners) > (5 if crop < 48 else 1)


def test_validation_takes_the_centre_every_time(mixed: Path) -> None:
    whole = ShardDataset(mixed, "val", None, check_crop=False)
    for data in (ShardDataset(mixed, "val", 16, seed=seed) for seed in range(3)):
        for i in range(6):
            latents = whole[i]["planes"]["y"]
            top, left = (latents.shape[2] - 2) // 2, (latents.shape[3] - 2) // 2
            centre = latents[..., top : top + 2, left : left + 2]
            assert torch.equal(data[i]["planes"]["y"], centre)


def test_the_same_draw_gives_the_same_crop_in_any_batch(mixed: Path) -> None:
    data = ShardDataset(mixed, "train", 16)
    draws = [Draw(2, i) for i in (4, 9, 13, 19)]
    batch = data.__getitems__(draws)["planes"]["y"]
    for i in (3, 1, 0, 2):
        assert torch.equal(ShardDataset(mixed, "train", 16)[draws[i]]["planes"]["y"][0], batch[i])
    others = data.__getitems__([Draw(3, i) for i in (4, 9, 13, 19)])["planes"]["y"]
    assert not torch.equal(batch, others)


def test_for_decoding_planes_stay_whole_and_boxes_are_in_pixels(equal: Path) -> None:
    data = ShardDataset(equal, "train", 20, crop_latents=False)
    batch = data.__getitems__([Draw(e, i) for e in range(20) for i in range(9)])
    assert batch["planes"]["y"].shape == (180, 16, 6, 8)
    top, left, height, width = batch["crop"].T.tolist()
    assert set(height) == set(width) == {20}
    assert set(top) == set(range(29))  # every pixel, not the grid of latents
    assert set(left) == set(range(45))
    centre = ShardDataset(equal, "val", 20, crop_latents=False).__getitems__([0, 1, 2])
    assert centre["crop"].tolist() == [[14, 22, 20, 20]] * 3


def test_without_a_crop_boxes_are_whole_pictures(equal: Path) -> None:
    batch = ShardDataset(equal, "val", None, crop_latents=False).__getitems__([0, 2])
    assert batch["crop"].tolist() == [[0, 0, 48, 64]] * 2
    assert batch["size"].tolist() == [[48, 64]] * 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("crop", [16, 48])
@pytest.mark.parametrize(
    ("workers", "start"), [(2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_workers_give_the_same_batches(mixed: Path, crop: int, workers: int, start: str) -> None:
    def batches(workers: int, start: str | None) -> list[dict[str, Any]]:
        data, sampler = ShardDataset(mixed, "train", crop), EpochSampler(20, 0, 6)
        data[0]  # maps and blocks that are open already do not disturb
        sampler.set_epoch(1)
        return list(
            DataLoader(
                data,
                6,
                sampler=sampler,
                num_workers=workers,
                collate_fn=same,
                multiprocessing_context=start,
            )
        )

    alone = batches(0, None)
    assert len(alone) == 4
    for one, other in zip(alone, batches(workers, start), strict=True):
        assert torch.equal(one["planes"]["y"], other["planes"]["y"])
        for name in ("label", "size", "index"):
            assert torch.equal(one[name], other[name])


def same(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def test_a_dataset_ends(mixed: Path) -> None:
    data = ShardDataset(mixed, "val", 16)
    assert len([sample["label"] for sample in data]) == 6
    for index in (-1, 6):
        with pytest.raises(IndexError):
            data[index]


# Crops that do not fit


@pytest.mark.parametrize(
    ("crop", "decoded", "message"),
    [
        (20, False, r"multiple of the codec's stride 8, got 20: give --data\.crop 16"),
        (3, False, r"give --data\.crop 8"),
        (44, False, r"give --data\.crop 48"),
        (56, False, r"--data\.crop 56 is larger .*shortest side 48\): give --data\.crop 48"),
        (None, False, r"has pictures of 2 sizes: give --data\.crop 48"),
        (32, True, r"input decoded needs one: give input latents, or export"),
    ],
)
def test_a_crop_that_does_not_fit_says_which_does(
    mixed: Path, crop: int | None, decoded: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardDataset(mixed, "train", crop, crop_latents=not decoded)


def test_pictures_that_differ_by_less_than_a_latent_cannot_be_decoded_whole(
    tiny_codec: Path, tmp_path: Path
) -> None:
    for i, size in enumerate([(48, 64), (41, 57)]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(draw(*size, seed=i)).save(tmp_path / "photos" / f"{i}.png")
        shutil.copy(tmp_path / "photos" / f"{i}.png", tmp_path / "photos" / f"{i}{i}.png")
    export(find_pictures(tmp_path / "photos"), tmp_path / "shards", tiny_codec, Plan())
    assert ShardDataset(tmp_path / "shards", "train", None)[0]["planes"]["y"].shape[-2:] == (6, 8)
    ShardDataset(tmp_path / "shards", "train", 41, crop_latents=False)
    with pytest.raises(ValueError, match=r"has pictures of 2 sizes: give --data\.crop 41"):
        ShardDataset(tmp_path / "shards", "train", None, crop_latents=False)
    with pytest.raises(ValueError, match=r"shortest side 41\): give --data\.crop 41"):
        ShardDataset(tmp_path / "shards", "train", 48, crop_latents=False)


def test_an_unknown_split_names_those_there_are(mixed: Path) -> None:
    with pytest.raises(ValueError, match="has no split dev, only train, val, test"):
        ShardDataset(mixed, "dev", None)


# Damage


def read_everything(root: Path) -> None:
    for split in ("val", "test", "train"):
        data = ShardDataset(root, split, None, check_crop=False)
        for i in range(len(data)):
            data[i]


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.targets.tar"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer"])
def test_a_tar_of_another_length_is_named(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        parts = {"empty": b"", "truncated": data[:-512], "longer": data + bytes(512)}
        path.write_bytes(parts[damage])
    with pytest.raises(ValueError, match=rf"^damaged [^\n]*{name}: expected \d+ bytes[^\n]*again$"):
        ShardDataset(copy, "train", None, check_crop=False)


def test_a_damaged_block_is_named_when_it_is_read(copy: Path) -> None:
    entry = json.loads((copy / "index.json").read_text())["splits"]["val"][0]
    path, (offset, length, *_) = copy / "val-00000.tar", entry["blocks"][0]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*range(40), *rng.integers(0, length, 60).tolist()]:
        damaged = bytearray(whole)
        damaged[offset + position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        where = rf"at byte {offset} of [^\n]*val-00000\.tar"
        with pytest.raises(ValueError, match=rf"^[^\n]*{where}[^\n]*$"):
            read_everything(copy)


def test_damaged_targets_are_named_at_once_or_mean_the_same(copy: Path) -> None:
    entry = json.loads((copy / "index.json").read_text())["splits"]["val"][0]
    path, (offset, length) = copy / "val-00000.targets.tar", entry["targets"][0]
    whole, labels = path.read_bytes(), ShardDataset(copy, "val", 16).labels.tolist()
    message = re.compile(r"damaged [^\n]*val-00000\.targets\.tar: [^\n]+ again")
    noticed = 0
    for position in range(length):
        damaged = bytearray(whole)
        damaged[offset + position] ^= 16
        path.write_bytes(damaged)
        try:  # a few bits of bzip2 have no meaning
            assert ShardDataset(copy, "val", 16).labels.tolist() == labels
        except ValueError as error:
            noticed += message.fullmatch(str(error)) is not None
    assert length - noticed <= 3


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"samples": [[0, "a"], [1, "a"], [2, "a"]]}, "no class has number 2"),
        ({"samples": [[0, "a"], [1, "a"], [-1, "a"]]}, "no class has number -1"),
        ({"samples": [[0, "a"], [1, "a"], ["x", "a"]]}, "invalid literal"),
        ({"samples": [[0, "a"], [1, "a"], [[0], "a"]]}, "list"),
        ({"samples": [[0, "a"], [1, "a"], [1e999, "a"]]}, "infinity"),
        ({"samples": [[0, "a"], [1, "a"], [0]]}, "unpack"),
        ({"samples": [[0, "a"], [1, "a"]]}, "expected 3 samples"),
        ({"samples": 3}, "len"),
        ({"keys": ["a"] * 3}, "nothing called 'samples'"),
        ([], "list"),
        ({"samples": [[0, "a" * 100_000]] * 3}, "too large|Unterminated"),
    ],
)
def test_hostile_targets_are_one_line(copy: Path, targets: object, message: str) -> None:
    index = json.loads((copy / "index.json").read_text())
    entry = index["splits"]["val"][0]
    assert [block[2] for block in entry["blocks"]] == [3, 1, 2]
    path = copy / "val-00000.targets.tar"
    packed = bz2.compress(json.dumps(targets).encode())
    entry["targets"][0] = [path.stat().st_size, len(packed)]
    entry["targets_bytes"] += len(packed)
    path.write_bytes(path.read_bytes() + packed)
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=rf"^damaged [^\n]*val-00000\.targets\.tar: [^\n]*({message})[^\n]*$"
    ):
        ShardDataset(copy, "val", None, check_crop=False)


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
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    export(find_pictures(scenes), tmp_path / "plain", tiny_codec, Plan(block=1))
    with pytest.raises(ValueError, match=r"with --block 1, for other readers: export it without"):
        ShardDataset(tmp_path / "plain", "train", None)
