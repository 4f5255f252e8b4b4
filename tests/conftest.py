"""A trained-looking codec and pictures, small enough for every test."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cdinfer.codecs import CAE, freeze, save_codec
from cdinfer.codecs.quantizer import histogram


def draw(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return a smooth ``(height, width, 3)`` picture: a few coloured waves and one edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 48
    picture = np.zeros((height, width, 3))
    for _ in range(4):
        along = rng.uniform(-4, 4, 2)
        wave = np.sin(along[0] * x + along[1] * y + rng.uniform(0, 6))
        picture += wave[..., None] * rng.uniform(-40, 40, 3)
    picture[x + y > rng.uniform(0.5, 1.5)] += rng.uniform(-60, 60, 3)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures() -> list[npt.NDArray[np.uint8]]:
    """Eight pictures of 48 x 64 pixels."""
    return [draw(48, 64, seed) for seed in range(8)]


@pytest.fixture
def picture_folder(tmp_path: Path, pictures: list[npt.NDArray[np.uint8]]) -> Path:
    """The first four pictures as PNG files: ``a/0.png``, ``a/1.png``, ``b/2.png``, ``b/3.png``."""
    folder = tmp_path / "photos"
    for index, picture in enumerate(pictures[:4]):
        path = folder / "ab"[index // 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[npt.NDArray[np.uint8]]
) -> Path:
    """The folder ``RUN/codec`` of a narrow frozen codec at 0.33 bpp; its weights are random."""
    folder = tmp_path_factory.mktemp("tiny") / "codec"
    save_codec(random_codec(0, pictures), folder, {"trained": "not at all"})
    return folder


def random_codec(seed: int, pictures: list[npt.NDArray[np.uint8]]) -> CAE:
    """Return a narrow frozen codec of random weights that uses all its symbols."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = CAE(0.33, width=0.125)
    last = codec.g_a[-1].weight
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        last /= codec._analysis(x).std()
    return freeze(codec, lambda c: histogram(c.symbols(x), c.levels))
