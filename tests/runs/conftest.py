import shutil
from pathlib import Path

import pytest
from PIL import Image

from cdinfer.codecs import read_codec
from cdinfer.data.images import to_tensor
from tests.conftest import draw


@pytest.fixture
def run_copy(classifier_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier_run, tmp_path / "copy"))


@pytest.fixture
def files(tiny_codec: Path, tmp_path: Path) -> list[Path]:
    """Three inputs of two sizes: ``0.cdi`` (48 x 64), ``1.png`` (48 x 64), ``2.cdi`` (40 x 56)."""
    codec = read_codec(tiny_codec)
    folder = tmp_path / "inputs"
    folder.mkdir()
    paths = [folder / name for name in ("0.cdi", "1.png", "2.cdi")]
    pictures = [draw(48, 64, 0), draw(48, 64, 1), draw(40, 56, 2)]
    Image.fromarray(pictures[1]).save(paths[1])
    for index in (0, 2):
        paths[index].write_bytes(codec.compress(to_tensor(pictures[index])[None])[0])
    return paths


@pytest.fixture
def segmenter_copy(segmenter_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(segmenter_run, tmp_path / "segmenter"))
