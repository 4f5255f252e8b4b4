import hashlib
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.images import read_image
from cdinfer.data.sample import (
    CONTRAST,
    GUARD,
    MEAN,
    NAME,
    SAMPLE_CLASSES,
    SOURCES,
    match_grey,
    plan,
    sample_set,
)

Moments = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_set(tmp_path_factory.mktemp("cache"))


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    said = hashlib.sha256()
    for path in files:
        said.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return said.hexdigest()


def moments(folder: Path, split: str) -> Moments:
    """Mean and standard deviation of each colour of each crop, and the class indices."""
    features, labels = [], []
    for label, name in enumerate(SAMPLE_CLASSES):
        for path in sorted((folder / split / name).iterdir()):
            pixels = read_image(path).reshape(-1, 3).astype(float)
            features.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
            labels.append(label)
    return np.array(features), np.array(labels)


def test_counts_and_kinds_of_the_crops(folder: Path) -> None:
    files = sorted(path.relative_to(folder).parts for path in folder.rglob("*.png"))
    counts = Counter((split, label) for split, label, _ in files)
    expected = {"train": 120, "val": 20, "test": 40}
    assert counts == {(s, label): n for s, n in expected.items() for label in SAMPLE_CLASSES}
    with Image.open(folder / "train" / "brick" / "119.png") as image:
        assert (image.mode, image.size) == ("L", (64, 64))


def test_the_set_is_small(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 20e6


def test_every_class_states_its_source_and_licence(folder: Path) -> None:
    text = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    for label, source in SOURCES.items():
        assert f"{label} ({source.picture}): {source.licence}" in text


def test_two_makings_are_the_same_bytes_and_take_seconds(folder: Path, tmp_path: Path) -> None:
    start = time.perf_counter()
    again = sample_set(tmp_path)
    assert time.perf_counter() - start < 10
    assert digest(again) == digest(folder)


def test_a_changed_plan_needs_a_new_name() -> None:
    # If this fails on purpose, raise the number in NAME: caches hold the old crops.
    assert (NAME, zlib.crc32(repr(plan()).encode())) == ("sample-2", 1923997120)


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Tell which boxes ``(..., 4)`` keep their distance."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = (
        np.moveaxis(x, -1, 0) for x in (a, b)
    )
    gap = 2 * GUARD
    return (
        (left - right2 >= gap)
        | (left2 - right >= gap)
        | (top - bottom2 >= gap)
        | (top2 - bottom >= gap)
    )


def test_splits_share_no_pixel() -> None:
    for label in SAMPLE_CLASSES:
        crops = [crop for crop in plan() if crop.label == label]
        boxes, splits = np.array([crop.box for crop in crops]), [crop.split for crop in crops]
        same = np.array(splits)[:, None] == np.array(splits)[None]
        assert (same | apart(boxes[:, None], boxes[None])).all()


def test_windows_lie_inside_their_photographs() -> None:
    for crop in plan():
        left, top, right, bottom = SOURCES[crop.label].region
        assert left <= crop.box[0] < crop.box[2] <= right
        assert top <= crop.box[1] < crop.box[3] <= bottom


def test_crops_are_grey_with_the_planned_mean_and_contrast(folder: Path) -> None:
    crops = [crop for crop in plan() if crop.split == "test"]
    features, _ = moments(folder, "test")
    np.testing.assert_array_equal(features[:, :1], features[:, 1:2])
    np.testing.assert_allclose(features[:, 0], [crop.mean for crop in crops], atol=2)
    # Highlights beyond white are clipped, which costs such crops a little contrast.
    np.testing.assert_allclose(features[:, 3], [crop.contrast for crop in crops], atol=3)
    assert min(crop.mean for crop in crops) >= MEAN[0]
    assert max(crop.contrast for crop in crops) <= CONTRAST[1]


def test_colour_and_brightness_do_not_give_the_class_away(folder: Path) -> None:
    (train, labels), (test, truth) = moments(folder, "train"), moments(folder, "test")
    center, spread = train.mean(0), train.std(0)
    train, test = (train - center) / spread, (test - center) / spread
    classes = np.arange(len(SAMPLE_CLASSES))

    centroids = np.stack([train[labels == label].mean(0) for label in classes])
    nearest = np.square(test[:, None] - centroids).sum(-1).argmin(1)

    def padded(features: np.ndarray) -> np.ndarray:
        return np.concatenate([features, features**2, np.ones((len(features), 1))], 1)

    weights = np.linalg.lstsq(padded(train), np.eye(len(classes))[labels], rcond=None)[0]
    linear = (padded(test) @ weights).argmax(1)

    for guess in (nearest, linear):
        assert (guess == truth).mean() < 2 / len(classes)


def test_texture_does_give_the_class_away(folder: Path) -> None:
    def spectrum(split: str) -> tuple[np.ndarray, np.ndarray]:
        features, labels = [], []
        for label, name in enumerate(SAMPLE_CLASSES):
            for path in sorted((folder / split / name).iterdir()):
                power = np.abs(np.fft.rfft2(read_image(path)[..., 0] / 255.0)) ** 2
                radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None])
                bands = np.digitize(radius, np.linspace(0.02, 0.5, 12))
                features.append(np.log([power[bands == band].mean() for band in range(1, 13)]))
                labels.append(label)
        return np.array(features), np.array(labels)

    (train, labels), (test, truth) = spectrum("train"), spectrum("test")
    centroids = np.stack([train[labels == k].mean(0) for k in range(len(SAMPLE_CLASSES))])
    guess = np.square(test[:, None] - centroids).sum(-1).argmin(1)
    assert 3 / len(SAMPLE_CLASSES) < (guess == truth).mean() < 0.97


def test_a_second_call_touches_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [folder.parent, *folder.rglob("*")]}
    assert sample_set(folder.parent) == folder
    after = {path: path.stat().st_mtime_ns for path in [folder.parent, *folder.rglob("*")]}
    assert after == before


def test_two_makers_at_once_make_one_set(folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(sample_set, [tmp_path, tmp_path]))
    assert made == [tmp_path / NAME] * 2
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert digest(tmp_path / NAME) == digest(folder)


def test_a_killed_process_leaves_no_half_set(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cdinfer.data.sample import sample_set;"
        "sample_set(Path(sys.argv[1]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while child.poll() is None and not any(tmp_path.glob(".*/*/val/*/*.png")):
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert any(tmp_path.glob(".*/*/val/*/*.png"))
    assert not (tmp_path / NAME).exists()
    assert digest(sample_set(tmp_path)) == digest(folder)


def test_the_cache_follows_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDINFER_CACHE", str(folder.parent))
    assert sample_set() == folder


def test_a_cache_that_cannot_be_written_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file.*set CDINFER_CACHE to a folder"):
        sample_set(tmp_path / "file")


def test_mean_and_contrast_hold_after_clipping() -> None:
    sky = np.tile(np.array([[0, 2], [2, 0]], np.uint8), (32, 32))
    sky[::8, ::8] = 40  # stars that scaling alone would put far above 255
    matched = match_grey(sky, 120.0, 30.0)
    assert matched.max() == 255
    assert matched.mean() == pytest.approx(120, abs=1)
    assert matched.std() == pytest.approx(30, abs=1)
