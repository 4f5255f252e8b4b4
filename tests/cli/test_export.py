import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.codecs import load_codec, save_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.layout import INDEX, find_pictures
from cdinfer.data.module import DataModule
from cdinfer.data.shards import ShardDataset
from tests.cli.conftest import SMALL
from tests.conftest import draw, random_codec


@pytest.fixture
def photos(scenes: Path, tmp_path: Path) -> Path:
    """Some of the pictures, to be damaged."""
    return Path(shutil.copytree(scenes / "test", tmp_path / "photos"))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def only_line(captured: str) -> str:
    (line,) = captured.splitlines()
    return line


# What it prints


def test_bytes_before_and_after_are_those_on_disk(
    whole: Path, scenes: Path, tiny_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["export", str(scenes), str(whole), "--codec", str(tiny_codec), *SMALL]
    assert main([*args, "--json"]) == 0
    captured = capsys.readouterr()
    row = json.loads(only_line(captured.out))
    before = sum(path.stat().st_size for path in scenes.rglob("*.png"))
    codec = sum(path.stat().st_size for path in (whole / "codec").iterdir())
    after = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) - codec
    headers = 22 * 36
    files = sum(
        len(data.file(i))
        for data in (ShardDataset(whole, split, None) for split in ("train", "val", "test"))
        for i in range(len(data))
    )
    assert row == {
        "set": str(whole),
        "pictures": 36,
        "skipped": 0,
        "dropped": 0,
        "below_floor": [],
        "bytes_before": before,
        "bytes_after": after,
        "bytes_masks": 0,
        "bytes_codec": codec,
        "factor": before / after,
        "factor_with_codec": before / (after + codec),
        "overhead": after / (files - headers) - 1,
    }
    assert captured.err == ""
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"36 pictures -> {whole}"
    assert lines[1].split() == ["before", f"{before:,}", "bytes"]
    assert lines[2].split()[:4] == ["after", f"{after:,}", "bytes", f"{before / after:.2f}x"]
    assert lines[3].split()[:2] == ["codec/", f"{codec:,}"]


def test_masks_have_a_line_of_their_own(
    tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        picture = draw(45, 61, number)
        for folder, one in (("JPEGImages", picture), ("SegmentationClass", picture[..., 0] // 128)):
            (tmp_path / "voc" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(one).save(tmp_path / "voc" / folder / f"{number}.png")
    (tmp_path / "voc" / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, numbers in (("train", "0 1 2 3"), ("val", "4 5")):
        path = tmp_path / "voc" / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.write_text("\n".join(numbers.split()))
    (tmp_path / "voc" / "classes.txt").write_text("dark\nlight\n")
    sources = sum(path.stat().st_size for path in (tmp_path / "voc" / "JPEGImages").iterdir())
    for block in ("512", "1"):
        out = tmp_path / block
        args = ["export", str(tmp_path / "voc"), str(out), "--codec", str(tiny_codec)]
        assert main([*args, "--block", block, "--json"]) == 0
        row = json.loads(only_line(capsys.readouterr().out))
        assert row["pictures"] == 6
        assert row["bytes_before"] == sources
        tars = sum(path.stat().st_size for path in out.glob("*.tar"))
        index = (out / "index.json").stat().st_size
        assert row["bytes_after"] + row["bytes_masks"] == tars + index
        assert main([*args, "--block", block]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["6", "before", "after", "masks", "codec/"]
        assert lines[3].split() == ["masks", f"{row['bytes_masks']:,}", "bytes"]
    batch = ShardDataset(tmp_path / "512", "train", 40).__getitems__([0, 1, 2, 3])
    assert batch["mask"].shape == (4, 40, 40)
    assert main(["shards", "verify", str(tmp_path / "512")]) == 0


def test_options_reach_the_set(scenes: Path, tiny_codec: Path, tmp_path: Path) -> None:
    lists = Path(shutil.copytree(scenes, tmp_path / "lists"))
    (lists / "splits").mkdir()
    names = sorted(str(path.relative_to(lists)) for path in lists.rglob("*.png"))
    (lists / "splits" / "train_few.txt").write_text("\n".join(names[:9]))
    options = ["--splits", "few", "--resize", "32", "--per-shard", "5", "--block", "2"]
    args = [str(lists), str(tmp_path / "out"), "--codec", str(tiny_codec.parent), "--bpp", "0.33"]
    assert main(["export", *args, *options]) == 0
    data = DataModule(str(tmp_path / "out"), crop=32)
    assert data.lengths["train"] + data.lengths["val"] == 9
    assert data.preprocessing == {"resize": 32, "crop": 32}
    (batch,) = data.train_dataloader()
    assert batch["size"].tolist() == [[32, 43]] * data.lengths["train"]
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert {block[2] for entry in index["splits"]["train"] for block in entry["blocks"]} <= {1, 2}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_one_sample_a_key_is_for_stock_webdataset(
    photos: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    args = ["export", str(photos), str(tmp_path / "out"), "--codec", str(tiny_codec)]
    assert main([*args, "--block", "1"]) == 0
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    codec = load_codec(str(tiny_codec))
    classes = json.loads((tmp_path / "out" / INDEX).read_text())["classes"]
    assert len(found) == 6
    assert len({sample["__key__"] for sample in found}) == 6
    for sample in found:
        key = json.loads(sample["json"])["key"]
        (file,) = codec.compress(to_tensor(read_image(photos / key))[None])
        assert sample["cdi"] == file
        assert classes[int(sample["cls"])] == key.split("/")[0]
    with pytest.raises(ValueError, match="with --block 1, for other readers: export it without"):
        DataModule(str(tmp_path / "out"))


# Mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["phots", "out"], r"no folder 'phots'; did you mean 'photos'\?"),
        (["empty", "out"], r"no training pictures in 'empty': expected files ending in .*\.png"),
        (["shards", "out"], r"'shards' is a set of shards already: give pictures, or cdinfer"),
        (["photos", "shards"], r"'shards' holds another export \(its \w+ differs\): choose"),
        (["photos", "photos"], r"'photos' is not empty \(it holds left\): choose another DST"),
        (["photos", "file"], r"cannot write file: File exists; make room or choose another DST"),
        (["photos", "out", "--bpp", "0.635"], r"nominal rate of 0\.33 bpp, not 0\.635: give --bpp"),
        (["photos", "out", "--codec", "cea"], r"no codec 'cea': expected a name \(cae, "),
        (["photos", "out", "--codec", "cae-paper"], r"no trained cae-paper .*: run cdinfer train"),
        (["photos", "out", "--codec", "cae", "--bpp", "0.3"], r"0\.3 bpp .*; use --bpp 0\.33"),
        (["photos", "out", "--splits", "x"], r"no photos/splits/train_x\.txt: give no --splits"),
        (["photos", "out", "--block", "0"], r"expected --block of at least 1, got 0"),
        (["photos", "out", "--per-shard", "-1"], r"expected --per-shard of at least 1, got -1"),
        (["photos", "out", "--resize", "0"], r"expected --resize of at least 1, got 0"),
        (["photos", "out", "--workers", "0"], r"expected --workers of at least 1, got 0"),
        (["photos", "out", "--device", "cuda"], r"no CUDA device on this machine: give --device"),
        (["photos", "out", "--download"], r"--download fetches data sets of torchvision: give"),
        (["torchvision:EuroSAT:photos", "out"], r"cannot read EuroSAT in 'photos': it is not the"),
        (["photos/list.csv", "out"], r"cannot read photos/list\.csv: No such file or directory"),
        (["photos/*.tar", "out"], r"no tar 'photos/\*\.tar': check the path"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_a_remedy(
    args: list[str],
    message: str,
    photos: Path,
    whole: Path,
    tiny_codec: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shutil.copytree(whole, "shards")
    Path("empty").mkdir()
    Path("file").touch()
    before = digests(Path())
    codec = [] if "--codec" in args else ["--codec", str(tiny_codec)]
    assert main(["export", *args, *codec]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("cdinfer export: ")
    assert re.search(message, line), line
    assert digests(Path()) == before


def test_an_unreadable_picture_stops_by_default_and_is_named(
    photos: Path, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "left" / "4.png").write_bytes(b"no picture")
    args = ["export", str(photos), str(tmp_path / "out"), "--codec", str(tiny_codec), "--json"]
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = only_line(captured.err)
    assert line.startswith(f"cdinfer export: {photos}/left/4.png: cannot be read")
    assert line.endswith("--on-error skip leaves such pictures out")


def test_an_unreadable_picture_is_left_out_on_request(
    photos: Path, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "left" / "4.png").write_bytes(b"no picture")
    args = ["export", str(photos), str(tmp_path / "out"), "--codec", str(tiny_codec), "--json"]
    assert main([*args, "--on-error", "skip"]) == 0
    captured = capsys.readouterr()
    row = json.loads(only_line(captured.out))
    assert (row["pictures"], row["skipped"]) == (5, 1)
    line = only_line(captured.err)
    assert line.startswith(f"cdinfer export: left out {photos}/left/4.png: cannot be read")
    lengths = DataModule(str(tmp_path / "out")).lengths
    assert sum(lengths.values()) == 5
    assert main([*args[:-1], "--on-error", "skip"]) == 0
    assert "5 pictures (1 left out) -> " in capsys.readouterr().out


def test_another_codec_does_not_go_into_the_same_set(
    whole: Path, scenes: Path, tmp_path: Path, pictures: list, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "shards"))
    save_codec(random_codec(5, pictures), tmp_path / "codec", {})
    assert main(["export", str(scenes), str(folder), "--codec", str(tmp_path), *SMALL]) == 2
    assert "holds another export (its stream differs)" in capsys.readouterr().err
    assert digests(folder) == digests(whole)


def test_a_set_can_be_exported_with_its_own_codec(
    whole: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    assert main(["export", str(scenes), str(folder), "--codec", str(whole), *SMALL]) == 0
    assert digests(folder) == digests(whole)
    assert main(["export", str(scenes), str(folder), "--codec", str(folder), *SMALL]) == 0
    assert digests(folder) == digests(whole)


def test_pictures_of_the_set_are_those_of_the_folder(whole: Path, scenes: Path) -> None:
    for split, items in find_pictures(scenes).splits.items():
        assert sorted(ShardDataset(whole, split, None).keys()) == sorted(i.key for i in items)
