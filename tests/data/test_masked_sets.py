"""Sets with masks: written, read from a folder, streamed, damaged."""

import bz2
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from cdinfer.codecs import CAE, load_codec
from cdinfer.data import roundtrip
from cdinfer.data.draws import Draw
from cdinfer.data.encoding import Job, Work, make_shard
from cdinfer.data.export import Plan, export
from cdinfer.data.index import read_index
from cdinfer.data.layout import Folder, ImageSet, Item
from cdinfer.data.masks import Masks
from cdinfer.data.reader import Reader
from cdinfer.data.shards import ShardDataset
from cdinfer.data.stream import StreamDataset
from tests.bitstream.servers import Site, serve
from tests.conftest import draw
from tests.data.conftest import MASKED_SIZES
from tests.data.pictures import paint_masks, squares
from tests.data.test_edit import digests
from tests.data.test_stream import AT_ONCE, assert_equal, load, numbers

PLAN = Plan(block=3, per_shard=7)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of codecs."""
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(masked_copy: Path) -> Iterator[Site]:
    """A server of a copy of the set."""
    with serve(masked_copy) as site:
        yield site


@pytest.fixture
def equal_masked(tiny_codec: Path, tmp_path: Path) -> Path:
    """A set of 8 pictures of 45 x 61."""
    pictures = paint_masks(tmp_path / "equal", {"train": 6, "val": 2}, [(45, 61)])
    export(pictures, tmp_path / "equal set", tiny_codec, Plan(block=4))
    return tmp_path / "equal set"


def raw_index(root: Path) -> dict[str, Any]:
    return json.loads((root / "index.json").read_text())


def spoil(root: Path, split: str, sample: int, at: int = 60) -> tuple[str, int]:
    """Flip a bit of one mask; return the tar and its key."""
    reader = Reader(root, read_index(root), split)
    (number,), (place,) = reader.find(np.array([sample]))
    shard, block, _ = reader.entries[number]
    masks = reader.masks(number)
    before = sum(len(masks[i]) for i in range(place))
    path = root / shard.tars[1]
    content = bytearray(path.read_bytes())
    content[shard.masks[block][0] + 4 * len(masks) + before + at] ^= 1
    path.unlink()  # what has mapped the old one keeps it
    path.write_bytes(content)
    return shard.tars[1], reader.targets(number)[place][1]


# What is written


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_masks_stand_beside_the_labels_of_their_block(masked: Path) -> None:
    raw = raw_index(masked)
    assert raw["masks"] == {"palette": [[n, 2 * n, 255 - n] for n in range(100)],
                            "ignore_index": 255}  # fmt: skip
    for entry in (entry for split in raw["splits"].values() for entry in split):
        tar = masked / f"{entry['name']}.targets.tar"
        found = list(webdataset.WebDataset(str(tar), shardshuffle=False))
        assert len(found) == len(entry["blocks"]) == len(entry["masks"])
        for sample, (offset, length), block in zip(
            found, entry["masks"], entry["blocks"], strict=True
        ):
            rows = json.loads(bz2.decompress(sample["json.bz2"]))["samples"]
            data = sample["masks"]
            assert tar.read_bytes()[offset : offset + length] == data
            lengths = np.frombuffer(data, "<u4", block[2]).tolist()
            ends = np.cumsum([4 * block[2], *lengths]).tolist()
            assert ends[-1] == length
            for (label, key), begin, end in zip(rows, ends[:-1], ends[1:], strict=True):
                assert label == -1
                size = MASKED_SIZES[int(Path(key).stem) % 4]
                with Image.open(io.BytesIO(data[begin:end])) as image:
                    assert image.mode == "L"
                    assert (np.array(image) == squares(*size)).all()


def test_two_exports_of_masks_have_the_same_bytes_however_they_are_made(
    masked_scenes: ImageSet, masked: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    def stop(split: str, count: int) -> None:
        if split == "val":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(masked_scenes, tmp_path / "a", tiny_codec, PLAN, progress=stop)
    assert list((tmp_path / "a").glob("train*.tar"))
    export(masked_scenes, tmp_path / "a", tiny_codec, PLAN, verify=True)
    assert digests(tmp_path / "a") == digests(masked)


@pytest.mark.slow
def test_workers_write_the_same_masks(
    masked_scenes: ImageSet, masked: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    export(masked_scenes, tmp_path / "a", tiny_codec, PLAN, workers=2)
    assert digests(tmp_path / "a") == digests(masked)


def test_other_masks_do_not_go_on_with_an_export(
    masked_scenes: ImageSet, tiny_codec: Path, masked_copy: Path
) -> None:
    assert masked_scenes.masks is not None
    swapped = {
        split: [item._replace(mask=items[i - 1].mask) for i, item in enumerate(items)]
        for split, items in masked_scenes.splits.items()
    }
    numbered = masked_scenes.masks._replace(numbers={7: 1})
    others = [
        (masked_scenes._replace(splits=swapped), "inputs"),
        (masked_scenes._replace(masks=numbered), "inputs"),
        (masked_scenes._replace(masks=masked_scenes.masks._replace(ignore_index=0)), "masks"),
        (masked_scenes._replace(masks=None), "inputs"),
    ]
    for other, what in others:
        with pytest.raises(ValueError, match=rf"holds another export \(its {what} differs\)"):
            export(other, masked_copy, tiny_codec, PLAN)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_one_sample_a_key_has_palette_masks(
    masked_scenes: ImageSet, tiny_codec: Path, tmp_path: Path
) -> None:
    export(masked_scenes, tmp_path / "a", tiny_codec, Plan(block=1), verify=True)
    urls = [str(path) for path in sorted((tmp_path / "a").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(found) == 21
    for sample in found:
        assert {*sample} >= {"cdi", "seg.png", "json"}
        assert "cls" not in sample
        number = int(Path(json.loads(sample["json"])["key"]).stem)
        with Image.open(io.BytesIO(sample["seg.png"])) as image:
            assert image.mode == "P"
            assert (np.array(image) == squares(*MASKED_SIZES[number % 4])).all()
            assert image.convert("RGB").getpixel((15, 15)) == (11, 22, 244)


@pytest.mark.parametrize("side", [16, 40])
def test_masks_are_resized_with_their_pictures(
    masked_scenes: ImageSet, tiny_codec: Path, tmp_path: Path, side: int
) -> None:
    few = masked_scenes._replace(splits={"val": masked_scenes.splits["val"]})
    export(few, tmp_path / "a", tiny_codec, Plan(resize=side))
    data = ShardDataset(tmp_path / "a", "val", None, whole=True)
    for i, key in enumerate(data.keys()):
        sample = data[i]
        mask, (height, width) = sample["mask"][0].numpy(), sample["size"][0].tolist()
        assert min(height, width) == side
        assert mask.shape == (height, width)
        original = MASKED_SIZES[int(Path(key).stem) % 4]
        y = (np.arange(height) + 0.5) * original[0] / height
        x = (np.arange(width) + 0.5) * original[1] / width
        nearest = squares(*original)[y.astype(int)][:, x.astype(int)]
        assert (mask == nearest).mean() > 0.99  # ties may go either way
        assert {*np.unique(mask)} <= {*np.unique(squares(*original))}


def test_a_mask_has_the_size_of_the_upright_picture(tiny_codec: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(draw(24, 40, 0)).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.ones((40, 24), np.uint8)).save(tmp_path / "upright.png")
    Image.fromarray(np.ones((24, 40), np.uint8)).save(tmp_path / "lying.png")
    pictures = ImageSet(
        tmp_path,
        ["sky", "road"],
        {"train": [Item("a.png", -1, mask="upright.png")]},
        Folder(tmp_path),
        Masks([[0, 0, 0], [1, 1, 1]]),
    )
    export(pictures, tmp_path / "set", tiny_codec, Plan())
    (sample,) = ShardDataset(tmp_path / "set", "train", None)
    assert sample["mask"].shape == (1, 40, 24)
    lying = pictures._replace(splits={"train": [Item("a.png", -1, mask="lying.png")]})
    message = (
        r"a\.png: its mask lying\.png: expected a mask of 24 x 40 .*, got 40 x 24; --on-error skip"
    )
    with pytest.raises(ValueError, match=message):
        export(lying, tmp_path / "other", tiny_codec, Plan())


def test_pictures_whose_masks_cannot_be_read_are_left_out_on_request(
    tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = paint_masks(tmp_path, {"train": 6}, MASKED_SIZES)
    (tmp_path / "masks/train/1.png").write_bytes(b"no picture")
    (tmp_path / "masks/train/2.png").unlink()
    Image.fromarray(np.full((61, 45), 200, np.uint8)).save(tmp_path / "masks/train/3.png")
    with pytest.raises(ValueError, match=r"photos/train/\d\.png: its mask masks/train/\d\.png: "):
        export(pictures, tmp_path / "a", tiny_codec, PLAN)
    index = export(pictures, tmp_path / "a", tiny_codec, PLAN, skip_unreadable=True)
    (entry,) = index["splits"]["train"]
    assert sorted(key for key, _ in entry["skipped"]) == [
        f"photos/train/{n}.png" for n in (1, 2, 3)
    ]
    assert all(str(tmp_path) not in reason for _, reason in entry["skipped"])
    assert any("holds class 200" in reason for _, reason in entry["skipped"])
    data = ShardDataset(tmp_path / "a", "train", None, whole=True)
    assert sorted(data.keys()) == [f"photos/train/{n}.png" for n in (0, 4, 5)]
    sources = sum((tmp_path / key).stat().st_size for key in sorted(data.keys()))
    assert entry["source_bytes"] == sources  # of pictures alone


def test_what_the_floor_drops_takes_its_mask_along(
    masked_scenes: ImageSet, tiny_codec: Path, tmp_path: Path
) -> None:
    few = masked_scenes._replace(splits={"val": masked_scenes.splits["val"]})
    (entry,) = export(few, tmp_path / "a", tiny_codec, Plan(min_psnr=99.0))["splits"]["val"]
    plan = Plan(block=3, min_psnr=np.median([psnr for _, psnr in entry["below"]]), drop=True)
    export(few, tmp_path / "b", tiny_codec, plan)
    data = ShardDataset(tmp_path / "b", "val", None, whole=True)
    assert len(data) == 3
    for i, key in enumerate(data.keys()):
        size = MASKED_SIZES[int(Path(key).stem) % 4]
        assert (data[i]["mask"][0].numpy() == squares(*size)).all()


def test_an_export_that_verifies_compares_masks(
    masked_scenes: ImageSet, tiny_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(masked_scenes.root, masked_scenes.source, 100, tiny_codec, PLAN, "cpu", False,
                True, masked_scenes.masks)  # fmt: skip
    job, codec = Job("train-00000", masked_scenes.splits["train"]), load_codec(str(tiny_codec))
    assert isinstance(codec, CAE)
    assert make_shard(codec, work, job, lambda count: None).entry["count"] == 16
    real = roundtrip._read_png
    monkeypatch.setattr("cdinfer.data.roundtrip._read_png", lambda png: real(png)[::-1])
    with pytest.raises(ValueError, match=r"block 0 of train-00000 does not decode to what was"):
        make_shard(codec, work, job, lambda count: None)


# What is read


@pytest.mark.parametrize("split", ["train", "val"])
def test_whole_pictures_of_any_size_come_with_their_masks(masked: Path, split: str) -> None:
    for latents in (True, False):
        data = ShardDataset(masked, split, None, latents, whole=True)
        for i, key in enumerate(data.keys()):
            sample, size = data[i], MASKED_SIZES[int(Path(key).stem) % 4]
            assert sample["mask"].dtype == torch.uint8
            assert sample["size"].tolist() == [[*size]]
            assert (sample["mask"].numpy() == squares(*size)).all()
            assert sample["label"].tolist() == [-1]
            if not latents:
                assert sample["crop"].tolist() == [[0, 0, *size]]


@pytest.mark.parametrize("crop", [8, 16])
def test_masks_are_cut_where_the_latents_are(masked: Path, crop: int) -> None:
    whole = ShardDataset(masked, "train", None, whole=True)
    data = ShardDataset(masked, "train", crop, seed=1)
    draws: list[Draw | int] = [Draw(e, i) for e in range(4) for i in range(16)]
    for batch, least in ((data.__getitems__(draws), 10), (data.__getitems__(list(range(16))), 3)):
        corners = set()
        for plane, mask, i in zip(batch["planes"]["y"], batch["mask"], batch["index"].tolist(),
                                  strict=True):  # fmt: skip
            assert mask.shape == (crop, crop)
            latents = whole[i]["planes"]["y"][0]
            for y in range(crop // 8):
                for x in range(crop // 8):
                    row, column = divmod(int(mask[8 * y + 1, 8 * x + 1]), 10)
                    assert torch.equal(plane[:, y, x], latents[:, row, column])
                    corners.add((row, column))
        assert len(corners) >= least


def test_beyond_the_picture_there_is_no_class(tiny_codec: Path, tmp_path: Path) -> None:
    pictures = paint_masks(tmp_path, {"train": 2}, [(41, 57)])
    export(pictures, tmp_path / "set", tiny_codec, Plan())
    whole = squares(41, 57)
    data = ShardDataset(tmp_path / "set", "train", 48)  # 6 x 8 latents reach over 48 x 64 pixels
    seen = set()
    for epoch in range(8):
        mask = data[Draw(epoch, 0)]["mask"][0].numpy()
        left = int(mask[8, 0]) % 10
        rest = 57 - 8 * left
        assert (mask[:41, :rest] == whole[:, 8 * left :][:, :48]).all()
        assert (mask[41:] == 255).all()
        assert (mask[:, rest:] == 255).all()
        seen.add(left)
    assert seen == {0, 1, 2}


def test_for_decoding_masks_are_cut_to_the_pixel(equal_masked: Path) -> None:
    data = ShardDataset(equal_masked, "train", 20, crop_latents=False)
    batch = data.__getitems__([Draw(e, i) for e in range(5) for i in range(6)])
    assert batch["mask"].shape == (30, 20, 20)
    for mask, (top, left, height, width) in zip(batch["mask"], batch["crop"].tolist(), strict=True):
        assert (mask.numpy() == squares(45, 61)[top : top + height, left : left + width]).all()
    assert len({tuple(box) for box in batch["crop"].tolist()}) > 20


def test_without_a_crop_masks_have_the_size_of_their_pictures(equal_masked: Path) -> None:
    for latents in (True, False):
        batch = ShardDataset(equal_masked, "train", None, latents).__getitems__([0, 3, 5])
        assert (batch["mask"].numpy() == squares(45, 61)).all()
        assert batch["mask"].shape == (3, 45, 61)


def test_without_a_crop_pictures_of_several_sizes_are_refused(
    tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = paint_masks(tmp_path, {"train": 4}, [(41, 57), (48, 64)])  # of one latent size
    export(pictures, tmp_path / "set", tiny_codec, Plan())
    for latents, crop in ((True, 48), (False, 41)):
        message = rf"has pictures of 2 sizes: give --data\.crop {crop}$"
        with pytest.raises(ValueError, match=message):
            ShardDataset(tmp_path / "set", "train", None, latents)
        with pytest.raises(ValueError, match=message):
            load(StreamDataset(f"file:{tmp_path}/set", "train", None, latents, 4))
        assert ShardDataset(tmp_path / "set", "train", crop, latents)[0]["mask"].shape[1] == crop


def test_opening_a_set_reads_no_mask(masked_copy: Path) -> None:
    spoil(masked_copy, "train", 5)
    shard = read_index(masked_copy).splits["train"].shards[0]
    path = masked_copy / shard.tars[1]
    content = bytearray(path.read_bytes())
    for offset, length in shard.masks:
        content[offset : offset + length] = bytes(length)
    path.write_bytes(content)
    data = ShardDataset(masked_copy, "train", 16)
    assert (data.labels == -1).all()
    with pytest.raises(
        ValueError, match=r"damaged .*targets\.tar, block 0: the lengths of its mas"
    ):
        data[0]


# What is streamed


@pytest.mark.parametrize("crop_latents", [True, False])
def test_streams_give_the_masks_that_the_folder_gives(
    tiny_codec: Path, tmp_path: Path, crop_latents: bool
) -> None:
    pictures = paint_masks(tmp_path, {"train": 9, "val": 5}, [(45, 61), (48, 57)])
    export(pictures, tmp_path / "set", tiny_codec, Plan(block=2, per_shard=5))
    with serve(tmp_path / "set") as site:
        for split, train in (("train", True), ("val", False)):
            local = ShardDataset(tmp_path / "set", split, 40, crop_latents, seed=3)
            data = StreamDataset(site.url, split, 40, crop_latents, 3, train, 3, delays=AT_ONCE)
            data.set_epoch(2)
            batches = load(data)
            assert {*numbers(batches)} == set(range(len(local)))
            for batch in batches:
                draws = [Draw(2, i) if train else i for i in numbers([batch])]
                assert_equal(batch, local.__getitems__(draws))


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_pictures_are_streamed_one_at_a_time(site: Site, workers: int) -> None:
    local = ShardDataset(site.root, "val", None, whole=True)
    for latents in (True, False):
        data = StreamDataset(site.url, "val", None, latents, 1, delays=AT_ONCE, whole=True)
        batches = load(data, workers if latents else 0)
        assert sorted(numbers(batches)) == list(range(5))
        for batch in batches:
            expected = local[int(batch["index"])]
            assert torch.equal(batch["mask"], expected["mask"])
            assert torch.equal(batch["planes"]["y"], expected["planes"]["y"])


def test_a_stream_can_begin_in_the_middle_of_a_shard(site: Site) -> None:
    local = ShardDataset(site.root, "train", 16)
    for rank in range(3):
        data = StreamDataset(site.url, "train", 16, batch_size=4, rank=rank, world=3)
        for batch in load(data):
            assert_equal(batch, local.__getitems__(numbers([batch])))


# What is damaged


def test_a_damaged_mask_is_named_by_shard_block_and_key(site: Site) -> None:
    _, key = spoil(site.root, "val", 3)
    where = rf"^damaged block \d at byte \d+ of %s/val-00000\.tar, key '{re.escape(key)}': its mask"
    data = ShardDataset(site.root, "val", 16)
    with pytest.raises(ValueError, match=where % site.root):
        data.__getitems__([2, 3, 4])
    assert data.__getitems__([2, 4])["index"].tolist() == [2, 4]
    with pytest.raises(ValueError, match=where % site.url):
        load(StreamDataset(site.url, "val", 16, batch_size=2, delays=AT_ONCE))


def test_damaged_masks_can_be_skipped(site: Site) -> None:
    for sample in (1, 4):
        spoil(site.root, "val", sample)
    data = ShardDataset(site.root, "val", 16, on_error="skip")
    with pytest.warns(
        UserWarning, match="skipped a sample of val: damaged block .*its mask is dam"
    ):
        assert data.__getitems__([0, 1, 2, 3, 4])["index"].tolist() == [0, 2, 3]
    stream = StreamDataset(site.url, "val", 16, batch_size=2, on_error="skip", delays=AT_ONCE)
    with pytest.warns(
        UserWarning, match="skipped a sample of val: damaged block .*its mask is dam"
    ):
        assert numbers(load(stream)) == [0, 2, 3]


@pytest.mark.parametrize("how", ["lengths", "png"])
def test_a_hostile_mask_costs_nothing(site: Site, how: str) -> None:
    shard = read_index(site.root).splits["val"].shards[0]
    path, (offset, _) = site.root / shard.tars[1], shard.masks[0]
    content = bytearray(path.read_bytes())
    at = offset if how == "lengths" else offset + 4 * shard.blocks[0].samples + 16  # its width
    content[at : at + 4] = b"\x7f\xff\xff\xff"
    path.unlink()
    path.write_bytes(content)
    for data in (
        ShardDataset(site.root, "val", 16),
        StreamDataset(site.url, "val", 16, batch_size=1, delays=AT_ONCE),
    ):
        with pytest.raises(ValueError, match=r"^damaged [^\n]+ (do not add up|its mask)[^\n]*$"):
            list(data)


CHANGES = {
    "masks beyond the file": lambda i, e: e["masks"].__setitem__(0, [10**6, 500]),
    "masks that are huge": lambda i, e: e["masks"].__setitem__(0, [0, 10**30]),
    "negative masks": lambda i, e: e["masks"].__setitem__(0, [-1, 500]),
    "masks too few": lambda i, e: e["masks"].pop(),
    "masks too many": lambda i, e: e["masks"].append([0, 900]),
    "masks too short": lambda i, e: e["masks"].__setitem__(0, [0, 30]),
    "no masks of a shard": lambda i, e: e.pop("masks"),
    "no masks of the set": lambda i, e: i.pop("masks"),
    "masks that are none": lambda i, e: i.update(masks=None),
    "no palette": lambda i, e: i["masks"].pop("palette"),
    "palette too short": lambda i, e: i["masks"]["palette"].pop(),
    "colour of two": lambda i, e: i["masks"]["palette"][3].pop(),
    "colour out of range": lambda i, e: i["masks"]["palette"].__setitem__(3, [0, 0, 256]),
    "colour that is a text": lambda i, e: i["masks"]["palette"].__setitem__(3, "red"),
    "no ignore_index": lambda i, e: i["masks"].pop("ignore_index"),
    "ignore_index out of range": lambda i, e: i["masks"].update(ignore_index=256),
    "ignore_index that is a text": lambda i, e: i["masks"].update(ignore_index="255"),
    "no classes": lambda i, e: (i.update(classes=[]), i["masks"].update(palette=[])),
    "other masks": lambda i, e: e["masks"].__setitem__(0, e["masks"][1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_hostile_index_of_masks_is_one_line(masked_copy: Path, change: str) -> None:
    raw = raw_index(masked_copy)
    CHANGES[change](raw, raw["splits"]["train"][0])
    (masked_copy / "index.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=rf"^[^\n]*{masked_copy}[^\n]* again$"):
        list(ShardDataset(masked_copy, "train", 16))


def test_blocks_of_masks_out_of_order_are_not_streamed(site: Site) -> None:
    raw = raw_index(site.root)
    entry = raw["splits"]["train"][0]
    entry["masks"][1] = entry["masks"][0]
    (site.root / "index.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="the blocks of train-00000 are not in order"):
        StreamDataset(site.url, "train", 16, delays=AT_ONCE)


# Real pictures


@pytest.mark.skipif("CDINFER_TEST_DATA" not in os.environ, reason="needs CDINFER_TEST_DATA")
def test_camvid_comes_back_as_it_was(tiny_codec: Path, tmp_path: Path) -> None:
    root = Path(os.environ["CDINFER_TEST_DATA"]) / "camvid"
    labels = json.loads((root / "labels.json").read_text())
    names = (root / "ImageSets/Segmentation/test.txt").read_text().split()[:4]
    items = [Item(f"JPEGImages/{n}.jpg", -1, mask=f"SegmentationClass/{n}.png") for n in names]
    classes = (root / "classes.txt").read_text().split()
    masks = Masks(labels["palette"], labels["ignore_index"])
    pictures = ImageSet(root, classes, {"test": items}, Folder(root), masks)
    export(pictures, tmp_path / "set", tiny_codec, Plan())
    data = ShardDataset(tmp_path / "set", "test", None)
    for i, key in enumerate(data.keys()):
        with Image.open(root / "SegmentationClass" / f"{Path(key).stem}.png") as image:
            assert (data[i]["mask"][0].numpy() == np.array(image)).all()
    with tarfile.open(tmp_path / "set" / "test-00000.targets.tar") as tar:
        (member,) = [one for one in tar if one.name.endswith(".masks")]
    assert member.size < 0.95 * sum((root / item.mask).stat().st_size for item in items)
