import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.codecs import load_codec, save_codec
from cdinfer.data.export import Plan, export
from cdinfer.data.images import read_image, resize_short_side, to_tensor
from cdinfer.data.index import read_index
from cdinfer.data.layout import ImageSet, Item, find_pictures
from cdinfer.data.lock import locked
from cdinfer.data.shards import ShardDataset
from tests.conftest import draw, random_codec


class Interrupted(Exception):  # noqa: N818
    """Ctrl-C, a moment of our choice."""


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Class folders ``left`` and ``right`` of 12 pictures, of 48 x 64 or 40 x 80."""
    for i in range(24):
        path = tmp_path / "scenes" / ("left", "right")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(*((48, 64) if i % 3 else (40, 80)), seed=i)).save(path)
    return tmp_path / "scenes"


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("*.tar")}


def plain(items: list[Item]) -> list[tuple[str, int]]:
    return sorted((item.key, item.label) for item in items)


def counts(index: dict[str, Any]) -> int:
    return sum(entry["count"] for split in index["splits"].values() for entry in split)


def index_of(folder: Path) -> list[dict[str, Any]]:
    splits = json.loads((folder / "index.json").read_text())["splits"]
    return [entry for split in splits.values() for entry in split]


PLAN = Plan(block=4, per_shard=5)


def test_two_exports_have_the_same_bytes(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    indices = [export(find_pictures(scenes), tmp_path / n, tiny_codec, PLAN) for n in ("a", "b")]
    assert indices[0] == indices[1] == json.loads((tmp_path / "a" / "index.json").read_text())
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    moved = shutil.copytree(scenes, tmp_path / "elsewhere")
    export(find_pictures(moved), tmp_path / "c", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == digests(tmp_path / "c")


def test_a_set_carries_its_codec(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    index = export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    assert digests(tmp_path / "a" / "codec") == digests(tiny_codec)
    assert read_index(tmp_path / "a").stream == load_codec(str(tmp_path / "a")).stream
    assert index["weights"] == digests(tiny_codec)["encoder.safetensors"]


def test_every_picture_is_in_its_split_once(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    pictures = find_pictures(scenes)
    export(pictures, tmp_path / "a", tiny_codec, PLAN)
    for split, items in pictures.splits.items():
        data = ShardDataset(tmp_path / "a", split, None, whole=True)
        assert sorted(zip(data.keys(), data.labels.tolist(), strict=True)) == plain(items)


def test_pictures_are_resized_by_their_short_side(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, Plan(resize=32))
    data = ShardDataset(tmp_path / "a", "train", 32)
    codec = load_codec(str(tiny_codec))
    batch = data.__getitems__(list(range(len(data))))
    assert {tuple(size) for size in batch["size"].tolist()} == {(32, 43), (32, 64)}
    for i, key in enumerate(data.keys()):
        picture = resize_short_side(read_image(scenes / key), 32)
        assert batch["size"][i].tolist() == list(picture.shape[:2])
        (file,) = codec.compress(to_tensor(picture)[None])
        assert data.file(i) == file
    assert read_index(tmp_path / "a").preprocessing == {"resize": 32, "crop": None}


def test_files_do_not_depend_on_their_batch(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    for block, per_shard in ((512, 8192), (1, 1)):
        plan = Plan(block=max(block, 2), per_shard=per_shard)
        export(find_pictures(scenes), tmp_path / f"{block}", tiny_codec, plan)
    sets = [ShardDataset(tmp_path / n, "train", None, whole=True) for n in ("512", "1")]
    files = [{key: data.file(i) for i, key in enumerate(data.keys())} for data in sets]
    assert files[0] == files[1]


@pytest.mark.parametrize("stop_after", [0, 1, 6, 17])
def test_an_interrupted_export_goes_on_where_it_stopped(
    scenes: Path, tiny_codec: Path, tmp_path: Path, stop_after: int
) -> None:
    seen = 0

    def stop(split: str, count: int) -> None:
        nonlocal seen
        seen += count
        if seen > stop_after:
            raise Interrupted

    pictures = find_pictures(scenes)
    export(pictures, tmp_path / "whole", tiny_codec, PLAN)
    with pytest.raises(Interrupted):
        export(pictures, tmp_path / "a", tiny_codec, PLAN, progress=stop)
    with pytest.raises(ValueError, match="was interrupted: run the same export again"):
        ShardDataset(tmp_path / "a", "train", None)
    before = inodes(tmp_path / "a")
    assert len(before) == 2 * min(stop_after // 5, 4)
    export(pictures, tmp_path / "a", tiny_codec, PLAN)
    assert before.items() <= inodes(tmp_path / "a").items()
    assert digests(tmp_path / "a") == digests(tmp_path / "whole")


def test_a_finished_export_is_not_done_again(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    first = export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    before = inodes(tmp_path / "a")
    progress: list[int] = []

    def note(split: str, count: int) -> None:
        progress.append(count)

    again = export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN, progress=note)
    assert again == first
    assert inodes(tmp_path / "a") == before
    assert sum(progress) == 24


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00000.targets.tar"])
def test_a_shard_that_is_not_whole_is_written_again(
    scenes: Path, tiny_codec: Path, tmp_path: Path, name: str
) -> None:
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    whole, before = digests(tmp_path / "a"), inodes(tmp_path / "a")
    os.truncate(tmp_path / "a" / name, 700)
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == whole
    shard = name.split(".")[0]
    kept = {n: inode for n, inode in before.items() if not n.startswith(shard)}
    assert kept.items() <= inodes(tmp_path / "a").items()


@pytest.mark.parametrize("plan", [Plan(block=4, per_shard=6), Plan(block=3, per_shard=5),
                                  Plan(resize=32, block=4, per_shard=5)])  # fmt: skip
def test_another_plan_does_not_fit_into_a_set(
    scenes: Path, tiny_codec: Path, tmp_path: Path, plan: Plan
) -> None:
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    before = digests(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds another export \(its \w+ differs\): choose"):
        export(find_pictures(scenes), tmp_path / "a", tiny_codec, plan)
    assert digests(tmp_path / "a") == before


def test_another_codec_or_list_does_not_fit_into_a_set(
    scenes: Path, tiny_codec: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    save_codec(random_codec(1, pictures), tmp_path / "codec", {})
    with pytest.raises(ValueError, match=r"\(its stream differs\)"):
        export(find_pictures(scenes), tmp_path / "a", tmp_path / "codec", PLAN)
    (scenes / "left" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"\(its inputs differs\)"):
        export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)


def test_an_encoder_of_the_same_stream_is_another_codec(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    codec = load_codec(str(tiny_codec))
    with torch.no_grad():
        next(codec.g_a.parameters()).mul_(1.01)
    save_codec(codec, tmp_path / "codec", {})
    assert load_codec(str(tmp_path / "codec")).stream == codec.stream
    with pytest.raises(ValueError, match=r"\(its weights differs\)"):
        export(find_pictures(scenes), tmp_path / "a", tmp_path / "codec", PLAN)


@pytest.mark.parametrize("name", ["holiday.jpg", "train-00000.tar", "codec/codec.json"])
def test_a_folder_with_something_else_is_left_alone(
    scenes: Path, tiny_codec: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a" / name).parent.mkdir(parents=True)
    (tmp_path / "a" / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"not empty \(it holds {name.split('/')[0]}\): choose"):
        export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == {name: hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"splits": {"train": [{}]}}', b'{"splits": 3}'])
def test_a_damaged_index_is_not_overwritten(
    scenes: Path, tiny_codec: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^damaged [^\n]*index\.json: [^\n]*choose another DST$"):
        export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)


def test_another_process_in_the_folder_is_refused(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(scenes)
    with locked(tmp_path / "a"):
        with pytest.raises(ValueError, match=r"another cdinfer is writing '.*/a': wait for it"):
            export(pictures, tmp_path / "a", tiny_codec, PLAN)
        assert set(digests(tmp_path / "a")) == {".lock"}
    export(pictures, tmp_path / "a", tiny_codec, PLAN)


def test_the_index_says_which_augmentations_are_proven(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    index = export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    assert index["augmentations"] == read_index(tmp_path / "a").augmentations == ["crop"]


def test_an_export_that_an_older_version_began_goes_on(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    index = export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    whole, before = digests(tmp_path / "a"), inodes(tmp_path / "a")
    old = {key: value for key, value in index.items() if key != "augmentations"}
    old |= {"complete": False, "splits": index["splits"] | {"test": [], "val": []}}
    (tmp_path / "a" / "index.json").write_text(json.dumps(old))
    export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == whole
    kept = {name for name, inode in inodes(tmp_path / "a").items() if before[name] == inode}
    assert {name for name in before if name.startswith("train")} <= kept


@pytest.mark.parametrize("change", ["name", "targets", "field"])
def test_a_set_that_was_changed_is_not_exported_into_again(
    scenes: Path, tiny_codec: Path, tmp_path: Path, change: str
) -> None:
    index = export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    entry = index["splits"]["train"][0]
    if change == "name":
        for end in ("tar", "targets.tar"):
            (tmp_path / "a" / f"train-00000.{end}").rename(tmp_path / "a" / f"train-00000-1.{end}")
        entry["name"] = "train-00000-1"
    elif change == "targets":
        entry["targets_name"] = "train-00000-1"
    else:
        index["deleted"] = []
    (tmp_path / "a" / "index.json").write_text(json.dumps(index))
    before = digests(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"was changed after its export \(cdinfer shards\): choose"
    ):
        export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == before


def spoil(pictures: ImageSet, *numbers: int) -> list[str]:
    """Damage pictures of the training split; return their keys."""
    keys = [pictures.splits["train"][number].key for number in numbers]
    for key in keys:
        (pictures.root / key).write_bytes(b"no picture")
    return keys


def test_an_unreadable_picture_stops_and_is_named(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(scenes)
    (bad,) = spoil(pictures, 7)
    message = rf"^[^\n]*{bad}: cannot be read[^\n]*; --on-error skip leaves such pictures out$"
    with pytest.raises(ValueError, match=message):
        export(pictures, tmp_path / "a", tiny_codec, PLAN)
    with pytest.raises(ValueError, match="was interrupted"):
        read_index(tmp_path / "a")


def test_unreadable_pictures_are_left_out_on_request(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(scenes)
    bad = spoil(pictures, 2, 7)
    index = export(pictures, tmp_path / "a", tiny_codec, PLAN, skip_unreadable=True)
    skipped = [pair for entry in index["splits"]["train"] for pair in entry["skipped"]]
    assert sorted(key for key, _ in skipped) == sorted(bad)
    assert all("cannot be read" in reason and str(tmp_path) not in reason for _, reason in skipped)
    assert counts(index) == 22
    data = ShardDataset(tmp_path / "a", "train", None, whole=True)
    rest = [item for item in pictures.splits["train"] if item.key not in bad]
    assert sorted(zip(data.keys(), data.labels.tolist(), strict=True)) == plain(rest)


def test_what_was_left_out_is_tried_again_without_skipping(
    scenes: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    shutil.copytree(scenes, tmp_path / "good")
    pictures = find_pictures(scenes)
    bad = spoil(pictures, *range(0, 20, 2))
    export(pictures, tmp_path / "a", tiny_codec, PLAN, skip_unreadable=True)
    before = digests(tmp_path / "a")
    with pytest.raises(ValueError, match="--on-error skip leaves such"):
        export(pictures, tmp_path / "a", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == before
    skipped = [[key for key, _ in entry["skipped"]] for entry in index_of(tmp_path / "a")]
    assert sum(map(bool, skipped)) > 2
    for key in skipped[0]:  # of the first shard alone
        shutil.copy(tmp_path / "good" / key, scenes / key)
    with pytest.raises(ValueError, match="--on-error skip leaves such"):
        export(pictures, tmp_path / "a", tiny_codec, PLAN)
    data = ShardDataset(tmp_path / "a", "train", None, whole=True)
    assert {*skipped[0]} <= {*data.keys()}
    for key in bad:
        shutil.copy(tmp_path / "good" / key, scenes / key)
    assert counts(export(pictures, tmp_path / "a", tiny_codec, PLAN)) == 24
    export(pictures, tmp_path / "b", tiny_codec, PLAN)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_picture_that_cannot_be_resized_is_named(tiny_codec: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (30_000, 1)).save(tmp_path / "photos" / "thin.png")
    with pytest.raises(ValueError, match=r"thin\.png: --resize 256 would make .*--on-error skip"):
        export(find_pictures(tmp_path / "photos"), tmp_path / "a", tiny_codec, Plan(resize=256))


def test_a_set_of_nothing_is_refused(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    for path in scenes.glob("*/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"can be read and kept: without --on-error skip"):
        export(find_pictures(scenes), tmp_path / "a", tiny_codec, PLAN, skip_unreadable=True)
    with pytest.raises(ValueError, match="was interrupted"):
        read_index(tmp_path / "a")


def test_names_may_be_anything_a_disk_allows(tiny_codec: Path, tmp_path: Path) -> None:
    names = [b"caf\xe9.png", "žluť.png".encode(), b'"quoted".png', b"a\nb.png", b"a\tb.png"]
    for i, name in enumerate(names):
        path = os.path.join(os.fsencode(tmp_path), b"photos", b"ab"[i % 2 : i % 2 + 1], name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(draw(16, 16, i)).save(tmp_path / "one.png")
        shutil.copy(tmp_path / "one.png", path)
    pictures = find_pictures(tmp_path / "photos")
    export(pictures, tmp_path / "a", tiny_codec, Plan())
    sets = [ShardDataset(tmp_path / "a", split, None) for split in ("train", "val")]
    keys = sets[0].keys() + sets[1].keys()
    assert {os.fsencode(key).split(b"/")[1] for key in keys} == set(names)


def test_a_small_set_costs_at_most_two_percent_more_than_its_payload(
    tiny_codec: Path, tmp_path: Path
) -> None:
    for i in range(50):
        Image.fromarray(draw(120, 104, i)).save(tmp_path / f"{i}.png")
    counts = {"train": 840, "val": 100, "test": 460}
    numbers = np.random.default_rng(0).permutation(9999)
    for split, count in counts.items():
        for i in range(count):
            label = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest")[i % 5]
            path = tmp_path / "scenes" / split / label / f"{label[0]}{numbers[i]:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(tmp_path / f"{i % 50}.png", path)
    index = export(find_pictures(tmp_path / "scenes"), tmp_path / "a", tiny_codec, Plan())
    payload = sum(entry["payload"] for split in index["splits"].values() for entry in split)
    assert 750 < payload / 1400 < 810  # a picture of 256 x 256 at 0.0983 bpp has 783
    files = [*(tmp_path / "a").glob("*.tar"), tmp_path / "a" / "index.json"]
    assert sum(path.stat().st_size for path in files) <= 1.02 * payload
