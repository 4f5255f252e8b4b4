from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.data.draws import Draw
from cdinfer.data.folders import PictureDataset
from cdinfer.data.images import read_image
from cdinfer.data.layout import Item

#: 12 x 20 pixels, each unlike every other.
PIXELS = np.arange(12 * 20 * 3, dtype=np.uint16).reshape(12, 20, 3).astype(np.uint8)


@pytest.fixture
def one(tmp_path: Path) -> PictureDataset:
    return dataset(tmp_path)


def dataset(folder: Path, crop: int | None = None, **options: object) -> PictureDataset:
    Image.fromarray(PIXELS).save(folder / "a.png")
    return PictureDataset(folder, [Item("a.png", 4)], crop, **options)


def pixels(sample: dict[str, torch.Tensor]) -> np.ndarray:
    return (sample["image"].permute(1, 2, 0) * 255).round().byte().numpy()


def test_a_whole_picture_is_what_the_file_holds(one: PictureDataset) -> None:
    sample = one[0]
    np.testing.assert_array_equal(pixels(sample), PIXELS)
    assert sample["image"].dtype == torch.float32
    assert sample["label"].item() == 4
    assert sample["size"].tolist() == [12, 20]
    assert sample["index"].item() == 0
    assert len(one) == 1


def test_a_plain_number_gives_the_centre(tmp_path: Path) -> None:
    sample = dataset(tmp_path, crop=8, flip=True)[0]
    np.testing.assert_array_equal(pixels(sample), PIXELS[2:10, 6:14])
    assert sample["size"].tolist() == [12, 20]


def test_draws_give_windows_all_over_the_picture(tmp_path: Path) -> None:
    data = dataset(tmp_path, crop=11)
    windows = {(i, j): PIXELS[i : i + 11, j : j + 11] for i in range(2) for j in range(10)}
    found = set()
    for epoch in range(200):
        crop = pixels(data[Draw(epoch, 0)])
        found |= {place for place, window in windows.items() if np.array_equal(crop, window)}
    assert found == set(windows)


def test_the_same_draw_gives_the_same_sample(tmp_path: Path) -> None:
    first, second = (dataset(tmp_path, crop=8, flip=True, seed=5) for _ in range(2))
    first[Draw(0, 0)]
    for epoch in range(10):
        assert torch.equal(first[Draw(epoch, 0)]["image"], second[Draw(epoch, 0)]["image"])


def test_every_other_draw_is_mirrored(tmp_path: Path) -> None:
    data = dataset(tmp_path, flip=True)
    mirrored = sum(np.array_equal(pixels(data[Draw(e, 0)]), PIXELS[:, ::-1]) for e in range(200))
    kept = sum(np.array_equal(pixels(data[Draw(e, 0)]), PIXELS) for e in range(200))
    assert mirrored + kept == 200
    assert abs(mirrored - 100) < 5 * 7.1  # five standard deviations
    still = dataset(tmp_path, flip=False)
    assert all(np.array_equal(pixels(still[Draw(e, 0)]), PIXELS) for e in range(20))


def test_a_small_picture_is_padded_by_its_border(tmp_path: Path) -> None:
    sample = dataset(tmp_path, crop=16)[0]
    crop = pixels(sample)
    assert crop.shape == (16, 16, 3)
    np.testing.assert_array_equal(crop[:12], PIXELS[:, 2:18])
    np.testing.assert_array_equal(crop[12:], np.repeat(PIXELS[-1:, 2:18], 4, axis=0))
    assert sample["size"].tolist() == [12, 20]


def test_both_sides_are_padded(tmp_path: Path) -> None:
    crop = pixels(dataset(tmp_path, crop=24)[Draw(0, 0)])
    assert crop.shape == (24, 24, 3)
    np.testing.assert_array_equal(crop[:12, :20], PIXELS)
    assert (crop[:, 20:] == crop[:, 19:20]).all()
    assert (crop[12:] == crop[11:12]).all()


def test_size_is_that_after_resizing(tmp_path: Path) -> None:
    sample = dataset(tmp_path, crop=None, resize=6)[0]
    assert sample["size"].tolist() == [6, 10]
    assert sample["image"].shape == (3, 6, 10)


def test_kept_pictures_are_not_read_again(tmp_path: Path) -> None:
    data = dataset(tmp_path, memory=1)
    before = data[0]["image"]
    (tmp_path / "a.png").unlink()
    assert torch.equal(data[0]["image"], before)


def test_no_more_than_the_memory_is_kept(tmp_path: Path) -> None:
    big = np.zeros((512, 512, 3), np.uint8)  # 0.75 MiB
    for name in ("a.png", "b.png"):
        Image.fromarray(big).save(tmp_path / name)
    data = PictureDataset(tmp_path, [Item("a.png", 0), Item("b.png", 0)], 8, memory=1)
    assert [data[i]["index"].item() for i in range(2)] == [0, 1]
    for name in ("a.png", "b.png"):
        (tmp_path / name).unlink()
    data[0]
    with pytest.raises(ValueError, match=r"b\.png"):
        data[1]


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: cannot be read"):
        data[0]


def test_reading_is_that_of_read_image(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    data = PictureDataset(tmp_path, [Item("grey.png", -1)], None)
    np.testing.assert_array_equal(pixels(data[0]), read_image(tmp_path / "grey.png"))
