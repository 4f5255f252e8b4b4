from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdinfer.data.images import read_image
from cdinfer.studies.bench.pictures import originals, read_pictures, write_pictures
from tests.conftest import draw


def test_pictures_of_a_folder_are_spread_scaled_and_cut_to_squares(picture_folder: Path) -> None:
    pictures = read_pictures(picture_folder, 2, side=32)
    assert [item.key for item in pictures.items] == ["a/0.png", "b/3.png"]
    assert pictures.classes == ["a", "b"]
    assert [item.label for item in pictures.items] == [0, 1]
    assert {p.shape for p in pictures.pixels} == {(32, 32, 3)}
    (batch,) = pictures.batches()
    assert batch.shape == (2, 3, 32, 32)
    assert len(read_pictures(picture_folder, 99, side=32).items) == 4


def test_the_centre_is_kept(tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 10:50] = 255
    Image.fromarray(picture).save(tmp_path / "x.png")
    assert read_pictures(tmp_path, 1, side=40).pixels[0].min() == 255


def test_without_a_folder_there_are_windows_of_photographs() -> None:
    pictures = read_pictures(None, 9, side=48)
    assert len({item.key for item in pictures.items}) == 9
    assert len(pictures.classes) == 7
    assert all(p.shape == (48, 48, 3) and p.std() > 1 for p in pictures.pixels)
    again = read_pictures(None, 9, side=48)
    assert all(np.array_equal(*pair) for pair in zip(pictures.pixels, again.pixels, strict=True))


def test_written_pictures_are_jpeg_files_of_the_same_pixels_nearly(tmp_path: Path) -> None:
    pictures = read_pictures(None, 3, side=48)
    images = write_pictures(pictures, tmp_path)
    for item, pixels in zip(images.splits["train"], pictures.pixels, strict=True):
        assert (tmp_path / item.key).read_bytes().startswith(b"\xff\xd8\xff")  # JPEG's magic
        assert abs(read_image(tmp_path / item.key).astype(int) - pixels).mean() < 8


def test_originals_are_there_only_for_jpeg_files(tmp_path: Path, picture_folder: Path) -> None:
    assert originals(read_pictures(picture_folder, 4, side=32)) is None
    assert originals(read_pictures(None, 1, side=32)) is None
    (tmp_path / "c").mkdir()
    Image.fromarray(draw(48, 64, 0)).save(tmp_path / "c" / "x.jpg")
    images = originals(read_pictures(tmp_path / "c", 1, side=32))
    assert images is not None
    assert [item.key for item in images.splits["train"]] == ["x.jpg"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pictures in .*expected PNG"):
        read_pictures(tmp_path, 1)
    with pytest.raises(ValueError, match="expected a folder of pictures"):
        read_pictures(tmp_path / "nowhere", 1)
