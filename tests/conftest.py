"""A trained-looking codec and pictures, small enough for every test."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cdinfer.codecs import CAE, freeze, save_codec
from cdinfer.codecs.cae import Design


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


def paint(
    root: Path,
    counts: dict[str, int],
    classes: Sequence[str] = "ab",
    sizes: Sequence[tuple[int, int]] = ((48, 64),),
) -> Path:
    """Write ``ROOT/SPLIT/CLASS/NUMBER.png``, classes and sizes (height, width) in turns."""
    for split, count in counts.items():
        for i in range(count):
            path = root / split / classes[i % len(classes)] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(*sizes[i % len(sizes)], seed=100 * count + i)).save(path)
    return root


@pytest.fixture(scope="session", autouse=True)
def _one_thread_for_each_of_two_processes() -> None:
    """Two processes test side by side: what they and their children compute takes one core."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _children_hear_ctrl_c() -> None:
    """A shell starts background jobs deaf to SIGINT, and processes pass that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


def random_codec(seed: int, pictures: list[npt.NDArray[np.uint8]], design: Design = "cae") -> CAE:
    """Return a narrow frozen codec of random weights that uses several symbols a channel."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = CAE(0.33, width=0.125, design=design)
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        spread = codec._analysis(x).std()
        if design == "cae-paper":
            codec.g_a[-1].weight /= spread
        else:
            codec.quantizer.log_step += (spread / 2).log()
    return freeze(codec, lambda c: list(c.numbers(x).numpy()))


@pytest.fixture
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it would be without trained codecs in it."""
    monkeypatch.setattr("cdinfer.codecs.zoo.SHIPPED", tmp_path / "shipped")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 48 x 64 in ``{train,val,test}/{bark,leaf}/``: 6, 2 and 3 of each class."""
    root = tmp_path_factory.mktemp("data") / "labelled"
    seed = 100
    for split, count in {"train": 6, "val": 2, "test": 3}.items():
        for name in ("bark", "leaf"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                Image.fromarray(draw(48, 64, seed)).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def classifier_run(
    tiny_codec: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of a small classifier on the latents of ``tiny_codec``, crops of 32."""
    from cdinfer.__main__ import main

    place = tmp_path_factory.mktemp("runs")
    flags = ["--task", "cls", "--codec", str(tiny_codec.parent), "--data", str(labelled)]
    options = ["--model.net.width", "0.125", "--data.crop", "32", "--data.batch_size", "4"]
    trainer = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    trainer += ["--trainer.logger.save_dir", str(place)]
    assert main(["train", *flags, *options, *trainer]) == 0
    return place / "cls" / "version_0"


@pytest.fixture(scope="session")
def codec_run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a narrow codec after 24 steps, validated (and H_t moved) every 8."""
    from cdinfer.__main__ import main

    place = tmp_path_factory.mktemp("runs")
    options = ["--data", str(labelled), "--model.codec.width", "0.125", "--data.crop", "32"]
    trainer = ["--trainer.max_steps", "24", "--trainer.val_check_interval", "8"]
    trainer += ["--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"]
    trainer += ["--trainer.logger.save_dir", str(place), "--data.batch_size", "4"]
    assert main(["train", "--task", "codec", *options, *trainer]) == 0
    return place / "codec" / "version_0"


@pytest.fixture(scope="session")
def shards(tiny_codec: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``labelled`` as ``tiny_codec`` stores it."""
    from cdinfer.__main__ import main

    folder = tmp_path_factory.mktemp("shards") / "set"
    assert main(["export", str(labelled), str(folder), "--codec", str(tiny_codec)]) == 0
    return folder


@pytest.fixture(scope="session")
def other_codec(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[npt.NDArray[np.uint8]]
) -> Path:
    """Like ``tiny_codec``, but another stream."""
    folder = tmp_path_factory.mktemp("other") / "codec"
    save_codec(random_codec(1, pictures), folder, {"trained": "not at all"})
    return folder


@pytest.fixture(scope="session")
def segmenter_run(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small untrained segmenter on the latents of ``tiny_codec``."""
    from tests.runs.make import make_segmenter_run

    return make_segmenter_run(tmp_path_factory.mktemp("runs") / "seg" / "version_0", tiny_codec)
