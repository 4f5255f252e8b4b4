import bz2
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from cdinfer.bitstream import Parsed
from cdinfer.codecs import CAE, load_codec
from cdinfer.data.draws import Draw, EpochSampler
from cdinfer.data.export import Plan, export
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.layout import find_pictures
from cdinfer.data.shards import ShardDataset
from tests.conftest import draw


class Counting:
    """A codec that remembers the files of every call of ``unpack``."""

    stride = CAE.stride

    def __init__(self, codec: CAE) -> None:
        self.codec, self.calls = codec, list[Sequence[bytes | Parsed]]()

    def unpack(self, data: Sequence[bytes | Parsed]) -> dict[str, Tensor]:
        self.calls.append(data)
        return self.codec.unpack(data)


def symbols(codec: Path, picture: Path) -> Tensor:
    return load_codec(str(codec)).symbols(to_tensor(read_image(picture))[None])[0]


# What is written


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_stock_webdataset_opens_both_tars(mixed: Path, mixed_scenes: Path) -> None:
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
        str(path.relative_to(mixed_scenes)) for path in mixed_scenes.glob("train/*/*.png")
    )
    assert all(classes[label] == key.split("/")[1] for label, key in rows)


def test_pictures_are_permuted_before_they_are_cut(mixed: Path, mixed_scenes: Path) -> None:
    data = ShardDataset(mixed, "train", None, whole=True)
    listed = [item.key for item in find_pictures(mixed_scenes).splits["train"]]
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
    suffixes = {path.suffix for path in mixed.rglob("[!.]*") if path.is_file()}
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
    mixed: Path, mixed_scenes: Path, tiny_codec: Path, split: str
) -> None:
    data = ShardDataset(mixed, split, None, whole=True)
    assert len(data) == len(data.keys()) == (20 if split == "train" else 6)
    for i, key in enumerate(data.keys()):
        sample = data[i]
        plane = sample["planes"]["y"]
        assert plane.dtype == torch.uint8
        assert torch.equal(plane[0], symbols(tiny_codec, mixed_scenes / key))
        assert sample["size"].tolist() == [list(read_image(mixed_scenes / key).shape[:2])]
        assert sample["label"].tolist() == [["left", "right"].index(key.split("/")[1])]
        assert sample["index"].tolist() == [i]
        assert sample["label"].dtype == sample["index"].dtype == torch.int64


def test_files_come_back_byte_for_byte(mixed: Path, mixed_scenes: Path, tiny_codec: Path) -> None:
    data, codec = ShardDataset(mixed, "val", None, whole=True), load_codec(str(tiny_codec))
    for i, key in enumerate(data.keys()):
        (file,) = codec.compress(to_tensor(read_image(mixed_scenes / key))[None])
        assert data.file(i) == file


def test_a_batch_is_one_call(equal: Path) -> None:
    data = ShardDataset(equal, "train", 32)
    counting = Counting(data.codec)
    data.batcher = data.batcher._replace(codec=counting)
    batch = data.__getitems__([8, 0, 5, 0])
    assert [len(call) for call in counting.calls] == [4]
    assert batch["index"].tolist() == [8, 0, 5, 0]
    assert batch["planes"]["y"].shape == (4, 16, 4, 4)
    assert torch.equal(batch["planes"]["y"][1], batch["planes"]["y"][3])


def test_a_call_never_mixes_latent_sizes(mixed: Path) -> None:
    data = ShardDataset(mixed, "train", 32)
    counting = Counting(data.codec)
    data.batcher = data.batcher._replace(codec=counting)
    order = list(range(20))
    batch = data.__getitems__(order)
    assert sorted(len(call) for call in counting.calls) == [6, 14]
    singles = [data[i] for i in order]  # and their results are put back in order
    for name in ("label", "size", "index"):
        assert torch.equal(batch[name], torch.cat([single[name] for single in singles]))
    assert torch.equal(batch["planes"]["y"], torch.cat([s["planes"]["y"] for s in singles]))


@pytest.mark.parametrize("crop", [8, 32, 48])
def test_crops_are_windows_of_the_whole_latents_on_the_grid(mixed: Path, crop: int) -> None:
    whole = ShardDataset(mixed, "train", None, whole=True)
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
    whole = ShardDataset(mixed, "val", None, whole=True)
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
    batch = data.__getitems__([Draw(e, i) for e in range(60) for i in range(9)])
    assert batch["planes"]["y"].shape == (540, 16, 6, 8)
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
