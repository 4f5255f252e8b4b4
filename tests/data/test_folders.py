from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.data.draws import Draw
from cdinfer.data.folders import PictureDataset
from cdinfer.data.images import read_image
from cdinfer.data.layout import Item
from cdinfer.data.masks import Masks, resize_mask
from tests.data.masked import stripes, write_mask

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


# Masks

THREE = Masks([[0, 0, 0]] * 3, ignore_index=255)

#: Height and width: odd, not square, smaller and larger than crops of 16.
SIZES = [(16, 16), (21, 33), (9, 40), (40, 9), (48, 64), (1, 1)]


def masked(
    folder: Path, size: tuple[int, int], crop: int | None, **options: object
) -> PictureDataset:
    """Return a picture whose grey is 100 times its class, and 50 where it has none."""
    mask = stripes(*size)
    write_mask(folder / "m.png", mask)
    Image.fromarray(np.where(mask == 255, 50, mask * 100).astype(np.uint8)).save(folder / "a.png")
    items = [Item("a.png", -1, mask="m.png")]
    return PictureDataset(folder, items, crop, masks=THREE, num_classes=3, **options)


def classes(sample: dict[str, torch.Tensor]) -> np.ndarray:
    """What the picture says of classes."""
    grey = pixels(sample)[..., 0]
    return np.where(grey == 50, 255, grey // 100)


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_mask_is_what_its_file_holds(tmp_path: Path, size: tuple[int, int]) -> None:
    sample = masked(tmp_path, size, None, flip=True)[0]
    assert sample["mask"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["mask"].numpy(), stripes(*size))
    assert sample["label"].item() == -1


@pytest.mark.parametrize("size", SIZES)
def test_crops_and_flips_move_picture_and_mask_alike(tmp_path: Path, size: tuple[int, int]) -> None:
    data = masked(tmp_path, size, 16, flip=True)
    seen = set()
    for draw in [0, *(Draw(epoch, 0) for epoch in range(30))]:
        sample = data[draw]
        mask = sample["mask"].numpy()
        assert mask.shape == sample["image"].shape[-2:] == (16, 16)
        inside = np.zeros((16, 16), bool)
        inside[: size[0], : size[1]] = True
        for turned in (inside, inside[:, ::-1]):
            if np.array_equal(mask[turned], classes(sample)[turned]):
                assert (mask[~turned] == 255).all()
                break
        else:
            pytest.fail("picture and mask are apart")
        seen.add(mask.tobytes())
    assert len(seen) > 1 or size == (1, 1)


def test_masks_do_not_change_what_is_drawn(tmp_path: Path) -> None:
    with_masks = masked(tmp_path, (48, 64), 16, flip=True)
    without = PictureDataset(tmp_path, with_masks.items, 16, flip=True)
    for epoch in range(10):
        draw = Draw(epoch, 0)
        assert torch.equal(with_masks[draw]["image"], without[draw]["image"])
    assert "mask" not in without[0]


@pytest.mark.parametrize(("size", "side"), [((48, 64), 24), ((21, 33), 42), ((17, 17), 7)])
def test_masks_are_resized_with_their_pictures(
    tmp_path: Path, size: tuple[int, int], side: int
) -> None:
    sample = masked(tmp_path, size, None, resize=side)[0]
    height, width = sample["size"].tolist()
    assert sample["mask"].shape == sample["image"].shape[-2:] == (height, width)
    by_pillow = Image.open(tmp_path / "m.png").resize((width, height), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(sample["mask"].numpy(), np.array(by_pillow))


def test_a_picture_that_a_camera_turned_has_an_upright_mask(tmp_path: Path) -> None:
    mask = stripes(24, 40)
    write_mask(tmp_path / "m.png", mask)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it
    Image.new("RGB", (24, 40)).save(tmp_path / "a.jpg", exif=exif)
    items = [Item("a.jpg", -1, mask="m.png")]
    sample = PictureDataset(tmp_path, items, None, masks=THREE, num_classes=3)[0]
    assert sample["image"].shape[-2:] == sample["mask"].shape == (24, 40)


def test_a_mask_that_does_not_fit_is_named(tmp_path: Path) -> None:
    data = masked(tmp_path, (16, 16), None)
    write_mask(tmp_path / "m.png", stripes(16, 17))
    with pytest.raises(ValueError, match=r"m\.png: expected a mask of 16 x 16 .* got 17 x 16$"):
        data[0]
    write_mask(tmp_path / "m.png", np.full((16, 16), 3, np.uint8))
    with pytest.raises(ValueError, match=r"m\.png: a mask holds class 3, expected 0 to 2 or 255"):
        data[0]


def test_kept_masks_are_not_read_again(tmp_path: Path) -> None:
    data = masked(tmp_path, (48, 64), 16, memory=1)
    before = data[0]
    (tmp_path / "m.png").unlink()
    assert torch.equal(data[0]["mask"], before["mask"])


# Random scale


def test_random_scale_is_of_training_alone(tmp_path: Path) -> None:
    data = masked(tmp_path, (48, 64), 16, scale=(0.5, 1.5))
    plain = masked(tmp_path, (48, 64), 16)
    assert torch.equal(data[0]["image"], plain[0]["image"])
    assert torch.equal(data[0]["mask"], plain[0]["mask"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.43, 2.0])
def test_a_scaled_crop_is_a_crop_of_the_scaled_picture(
    tmp_path: Path, size: tuple[int, int], factor: float
) -> None:
    data = masked(tmp_path, size, 16, scale=(factor, factor))
    height, width = (max(1, round(factor * side)) for side in size)
    whole = Image.open(tmp_path / "a.png").convert("RGB")
    picture = np.array(whole.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    mask = resize_mask(stripes(*size), (height, width))
    places = [(y, x) for y in range(max(1, height - 15)) for x in range(max(1, width - 15))]
    for epoch in range(4):
        sample = data[Draw(epoch, 0)]
        assert sample["size"].tolist() == list(size)
        low, crop = min(height, 16), pixels(sample).astype(int)
        wide = min(width, 16)
        inside, classes = crop[:low, :wide], sample["mask"].numpy()
        found = [
            (y, x)
            for y, x in places
            if np.abs(picture[y : y + 16, x : x + 16] - inside).max() <= 1
            and np.array_equal(mask[y : y + 16, x : x + 16], classes[:low, :wide])
        ]
        assert found
        assert (classes[low:] == 255).all()
        assert (classes[:, wide:] == 255).all()
        np.testing.assert_array_equal(crop[low:, :wide], np.repeat(inside[-1:], 16 - low, 0))


def test_scales_are_drawn_from_the_whole_range(tmp_path: Path) -> None:
    # a ramp of 64 columns: the step from column to column tells the factor
    Image.fromarray(np.tile(np.arange(0, 256, 4, np.uint8), (48, 1))).save(tmp_path / "a.png")
    data = PictureDataset(tmp_path, [Item("a.png", 2)], 16, scale=(0.5, 1.5))
    greys = [pixels(data[Draw(epoch, 0)])[8, 2:-2, 0].astype(float) for epoch in range(300)]
    factors = np.array([4 / np.polyfit(np.arange(12), grey, 1)[0] for grey in greys])
    assert 0.45 < factors.min() < 0.55
    assert 1.4 < factors.max() < 1.6
    assert abs(factors.mean() - 1) < 0.1
    again = PictureDataset(tmp_path, [Item("a.png", 2)], 16, scale=(0.5, 1.5))
    assert torch.equal(data[Draw(7, 0)]["image"], again[Draw(7, 0)]["image"])


# Strong augmentation


def test_strong_augmentation_is_a_function_of_the_draw(tmp_path: Path) -> None:
    first, second = (dataset(tmp_path, crop=8, flip=True, augment="strong") for _ in range(2))
    images = [first[Draw(epoch, 0)]["image"] for epoch in range(20)]
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    for epoch in reversed(range(20)):
        assert torch.equal(second[Draw(epoch, 0)]["image"], images[epoch])
    assert torch.equal(torch.random.get_rng_state(), state)  # threads share it
    assert {tuple(image.shape) for image in images} == {(3, 8, 8)}
    assert len({image.numpy().tobytes() for image in images}) > 15


def test_validation_is_not_augmented(tmp_path: Path) -> None:
    strong, plain = (dataset(tmp_path, crop=8, augment=a) for a in ("strong", "plain"))
    assert torch.equal(strong[0]["image"], plain[0]["image"])
