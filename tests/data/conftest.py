"""Sets that tests of ``data`` read, change and damage."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from cdinfer.data.encoding import Plan
from cdinfer.data.export import export
from cdinfer.data.layout import ImageSet, find_pictures
from tests.conftest import draw, paint
from tests.data.pictures import paint_masks

#: Heights and widths of the pictures; the first two share the latent size 6 x 8.
SIZES = [(48, 64), (41, 57), (64, 48)]

#: Those of pictures with masks: odd, square and small, and two that share the latent size 6 x 8.
MASKED_SIZES = [(45, 61), (16, 16), (48, 64), (61, 45)]


@pytest.fixture(scope="session")
def mixed_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three sizes: 20 for training, 6 each for validation and test."""
    counts = {"train": 20, "val": 6, "test": 6}
    return paint(tmp_path_factory.mktemp("scenes"), counts, ("left", "right"), SIZES)


@pytest.fixture(scope="session")
def mixed(mixed_scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as shards of at most 7 pictures in blocks of at most 3."""
    folder = tmp_path_factory.mktemp("mixed") / "shards"
    export(find_pictures(mixed_scenes), folder, tiny_codec, Plan(block=3, per_shard=7))
    return folder


@pytest.fixture(scope="session")
def equal(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 12 pictures of 48 x 64, 9 and 3."""
    root = tmp_path_factory.mktemp("equal")
    for i in range(12):
        path = root / "photos" / ("train", "val")[i % 4 == 3] / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(48, 64, seed=i)).save(path)
    export(find_pictures(root / "photos"), root / "shards", tiny_codec, Plan(block=4))
    return root / "shards"


@pytest.fixture(scope="session")
def masked_scenes(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Pictures with masks, of four sizes: 16 for training, 5 for validation, none for test."""
    counts = {"train": 16, "val": 5}
    return paint_masks(tmp_path_factory.mktemp("masked"), counts, MASKED_SIZES)


@pytest.fixture(scope="session")
def masked(
    masked_scenes: ImageSet, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The pictures with masks as shards of at most 7 in blocks of at most 3."""
    folder = tmp_path_factory.mktemp("masked") / "shards"
    export(masked_scenes, folder, tiny_codec, Plan(block=3, per_shard=7))
    return folder


@pytest.fixture
def masked_copy(masked: Path, tmp_path: Path) -> Path:
    """The set with masks, to be damaged."""
    return Path(shutil.copytree(masked, tmp_path / "masked"))


@pytest.fixture
def copy(mixed: Path, tmp_path: Path) -> Path:
    """The mixed set, to be damaged."""
    return Path(shutil.copytree(mixed, tmp_path / "shards"))
