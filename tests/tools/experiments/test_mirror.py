import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.__main__ import main as cdinfer
from cdinfer.codecs import read_codec
from cdinfer.data.images import read_image, to_tensor
from cdinfer.data.layout import find_pictures
from cdinfer.data.masks import colour_mask
from cdinfer.data.module import DataModule
from tests.conftest import draw
from tools.experiments.mirror import fill, mirror

ROOT = Path(__file__).parents[3]


def test_a_decoded_mirror_holds_what_the_codec_decodes(
    labelled: Path, shards: Path, tmp_path: Path
) -> None:
    said = mirror(find_pictures(labelled), tmp_path / "m", shards, "decoded")
    found, originals = find_pictures(tmp_path / "m"), find_pictures(labelled)
    assert found.classes == originals.classes
    assert {s: len(i) for s, i in found.splits.items()} == {
        s: len(i) for s, i in originals.splits.items()
    }
    assert said == {"pictures": 22, "bytes": sum(f.stat().st_size for f in files(tmp_path / "m"))}
    codec = read_codec(shards / "codec")
    (picture,) = (item for item in originals.splits["val"] if item.key == "val/leaf/1.png")
    x = to_tensor(read_image(labelled / picture.key))[None]
    x_hat = (codec.decompress(codec.compress(x))[0] * 255).round().permute(1, 2, 0).numpy()
    stored = read_image(tmp_path / "m/val/leaf/val_leaf_1.png")
    np.testing.assert_array_equal(stored, x_hat.clip(0, 255))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".png", ".webp")]


def test_levels_fill_the_bytes_there_are() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 200, 40)[:, None] * np.array([1, 2, 3, 5])
    for budget in (int(sizes[:, 0].sum()), 12_345, 18_000, 10**6):
        levels = fill(lambda n, level: int(sizes[n, int(level)]), 40, [0, 1, 2, 3], budget)
        total = sum(sizes[n, int(level)] for n, level in enumerate(levels))
        assert total <= budget
        if budget < 10**6:
            assert budget - total < sizes.max()
        assert levels == sorted(levels, reverse=True)
        assert levels[0] - levels[-1] <= 1


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 10 bytes, got 40 at the lowest"):
        fill(lambda number, level: 20, 2, [0, 1], 10)


def test_a_webp_mirror_has_the_bytes_of_the_set(
    labelled: Path, shards: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tools.experiments.mirror", labelled, tmp_path / "m"]
    options = ["--set", shards, "--as", "webp", "--json"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, check=True)
    said = json.loads(done.stdout)
    after = sum(f.stat().st_size for f in shards.iterdir() if f.suffix in (".tar", ".json"))
    assert said["budget"] == after
    assert said["bytes"] == sum(f.stat().st_size for f in files(tmp_path / "m"))
    assert 0 <= after - said["bytes"] < 400
    with Image.open(tmp_path / "m/test/bark/test_bark_0.webp") as image:
        assert (image.format, image.size) == ("WEBP", (64, 48))


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Six pictures of 61 x 45 with masks of three classes."""
    root, rng = tmp_path / "voc", np.random.default_rng(0)
    lists = {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, ids in lists.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids))
        for name in ids:
            Image.fromarray(draw(45, 61, ord(name))).save(root / f"JPEGImages/{name}.png")
            mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (45, 61))
            colour_mask(mask, [[0, 0, 0], [9, 8, 7], [1, 2, 3]]).save(
                root / f"SegmentationClass/{name}.png"
            )
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


@pytest.mark.parametrize("resize", [None, 30])
def test_mirrors_keep_masks_classes_and_colours(
    masked: Path, tiny_codec: Path, tmp_path: Path, resize: int | None
) -> None:
    flags = ["--codec", str(tiny_codec), *(["--resize", str(resize)] if resize else [])]
    assert cdinfer(["export", str(masked), str(tmp_path / "set"), *flags]) == 0
    for kind in ("decoded", "webp"):
        mirror(find_pictures(masked), tmp_path / kind, tmp_path / "set", kind)
        same = DataModule(str(masked), crop=None, resize=resize, input="original", batch_size=2)
        data = DataModule(str(tmp_path / kind), crop=None, input="original", batch_size=2)
        assert (data.classes, data.palette, data.ignore_index) == (
            same.classes,
            same.palette,
            same.ignore_index,
        )
        for ours, theirs in zip(data.test_dataloader(), same.test_dataloader(), strict=True):
            np.testing.assert_array_equal(ours["mask"], theirs["mask"])
            assert ours["image"].shape == theirs["image"].shape
