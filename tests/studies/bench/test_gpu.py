from pathlib import Path

import pytest
import torch
from PIL import Image

from cdinfer.studies.bench import gpu
from cdinfer.studies.bench.pictures import Pictures, read_pictures
from cdinfer.studies.bench.rows import FIELDS
from tests.conftest import draw

pytestmark = [
    pytest.mark.usefixtures("webdataset_files"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Five pictures of 64 x 64 pixels from JPEG files of 80 x 96."""
    folder = tmp_path_factory.mktemp("jpegs")
    for number in range(5):
        Image.fromarray(draw(80, 96, number)).save(folder / f"{number}.jpg")
    return read_pictures(folder, 5, side=64)


def bench(pictures: Pictures, codec: Path, **options: object) -> list[dict[str, object]]:
    small = {"device": "cpu", "batch_size": 2, "width": 0.0625, "cores": (1,)} | options
    return gpu.run(pictures, [codec], 1, lambda title: None, **small)


def test_latents_meet_jpeg_in_training_and_inference(tiny_codec: Path, jpegs: Pictures) -> None:
    rows = bench(jpegs, tiny_codec, resident="ram")
    assert all(tuple(row) == FIELDS for row in rows)
    speeds = [row for row in rows if row["unit"] == "pictures/s"]
    assert len(speeds) == 2 * 2 * 2  # training and inference, resident or not, two kinds of JPEG
    assert sum("resident in ram" in row["case"] for row in speeds) == 4
    assert all(min(row["ours"], row["peer"], row["ideal"]) > 0 for row in speeds)
    cores = [row for row in rows if row["unit"] == "cores"]
    assert len(cores) == 4
    assert all(row["ours"] >= 1 and row["peer"] >= 1 for row in cores)


def test_without_original_files_there_is_one_kind_of_jpeg(tiny_codec: Path, few: Pictures) -> None:
    rows = bench(few, tiny_codec)
    assert len(rows) == 4
    assert not any("original" in row["case"] or "resident" in row["case"] for row in rows)


def test_the_cores_needed_are_the_fewest_that_are_fast_enough_or_estimated() -> None:
    bench = gpu._Bench.__new__(gpu._Bench)
    bench.tried = (1, 2, 4)
    synthetic = {("synthetic latents", 1): [0.95]}
    fast = {("latents", 1): [4.0], ("latents", 2): [1.0], ("latents", 4): [0.9]}
    assert bench._cores("latents", synthetic | fast, "synthetic latents") == (2, "")
    slow = {("latents", 1): [40.0], ("latents", 2): [20.0], ("latents", 4): [9.0]}
    answer = bench._cores("latents", synthetic | slow, "synthetic latents")
    assert answer == (40, " (estimated)")


def test_a_set_of_one_batch_is_refused(tiny_codec: Path, few: Pictures) -> None:
    with pytest.raises(ValueError, match="needs more than 128 pictures, a batch, got 5: give"):
        gpu.run(few, [tiny_codec], 1, lambda title: None, device="cpu")


@pytest.mark.gpu
def test_it_runs_where_there_is_a_gpu(tiny_codec: Path, jpegs: Pictures) -> None:
    rows = bench(jpegs, tiny_codec, device="cuda", cores=(1, 2), resident="gpu")
    assert all(row["ours"] > 0 for row in rows)


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="needs a CUDA device and there is none here"):
        gpu.check_device()
