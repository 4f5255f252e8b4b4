import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from cdinfer.metrics import (
    MS_SSIM_SIDE,
    SSIM_SIDE,
    ms_ssim,
    psnr,
    round_to_8_bits,
    segmentation_scores,
    ssim,
)
from tests.conftest import draw

#: Weights of the five scales (Wang et al. 2003, section 3.2).
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def to_batch(*images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def noisy(image: npt.NDArray[np.uint8], sigma: float) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(1).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_psnr_is_that_of_skimage_for_each_picture() -> None:
    images = [draw(48, 64, seed) for seed in range(3)]
    changed = [noisy(image, sigma) for image, sigma in zip(images, (2, 10, 40), strict=True)]
    expected = [
        peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(images, changed, strict=True)
    ]
    ours = psnr(to_batch(*changed), to_batch(*images))
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)


def test_equal_pictures_have_infinite_psnr() -> None:
    x = to_batch(draw(8, 8, 0))
    assert psnr(x, x).tolist() == [float("inf")]


def test_pictures_are_rounded_to_what_a_file_holds() -> None:
    x = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 2.0])
    assert (255 * round_to_8_bits(x)).tolist() == pytest.approx([0, 0, 1, 100, 255])


def test_ssim_is_that_of_skimage_for_each_picture() -> None:
    images = [draw(48, 64, seed) for seed in range(3)]
    changed = [noisy(image, sigma) for image, sigma in zip(images, (2, 10, 40), strict=True)]
    options = {"sigma": 1.5, "gaussian_weights": True, "use_sample_covariance": False}
    expected = [
        structural_similarity(a / 255, b / 255, channel_axis=2, data_range=1.0, **options)
        for a, b in zip(images, changed, strict=True)
    ]
    ours = ssim(to_batch(*changed), to_batch(*images))
    assert ours.tolist() == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.3


@pytest.mark.parametrize(("side", "defined"), [(1, False), (10, False), (SSIM_SIDE, True)])
def test_pictures_below_the_window_have_no_ssim(side: int, defined: bool) -> None:
    x = torch.rand(2, 3, side, 64)
    assert ssim(x, x).isfinite().tolist() == [defined, defined]
    assert ssim(x.mT, x.mT).isfinite().tolist() == [defined, defined]


def reference_ms_ssim(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """MS-SSIM of ``(H, W)`` pictures in [0, 1], from skimage's single-scale SSIM.

    On equal local means SSIM is its contrast-structure part; skimage has no other way to it, so
    the luminance part is divided out by hand.
    """
    from scipy.ndimage import gaussian_filter

    total = 1.0
    for scale, weight in enumerate(WEIGHTS):
        options = {"sigma": 1.5, "truncate": 3.5}
        mean_a, mean_b = gaussian_filter(a, **options), gaussian_filter(b, **options)
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        _, ssim = structural_similarity(
            a, b, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
        )
        part = ssim if scale == len(WEIGHTS) - 1 else ssim / luminance
        total *= part[5:-5, 5:-5].mean() ** weight
        height, width = (side // 2 * 2 for side in a.shape)
        a, b = (
            p[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for p in (a, b)
        )
    return float(total)


@pytest.mark.parametrize("sigma", [5, 30])
def test_ms_ssim_is_built_from_ssim_at_five_scales(sigma: float) -> None:
    image = draw(192, 208, 0)
    changed = noisy(image, sigma)
    expected = np.mean(
        [reference_ms_ssim(image[..., c] / 255, changed[..., c] / 255) for c in range(3)]
    )
    (ours,) = ms_ssim(to_batch(changed), to_batch(image)).tolist()
    assert ours == pytest.approx(expected, abs=1e-3)
    assert ours < 0.999


def test_ms_ssim_is_one_number_a_picture() -> None:
    images = [draw(176, 192, seed) for seed in range(2)]
    changed = [noisy(images[0], 5), noisy(images[1], 40)]
    together = ms_ssim(to_batch(*changed), to_batch(*images)).tolist()
    alone = [ms_ssim(to_batch(a), to_batch(b)).item() for a, b in zip(changed, images, strict=True)]
    assert together == pytest.approx(alone, rel=1e-5)
    assert together[0] > together[1]


@pytest.mark.parametrize("side", [1, 161, 162, 175])
def test_small_pictures_have_no_ms_ssim(side: int) -> None:
    x = torch.rand(2, 3, side, 200)
    assert ms_ssim(x, x).isnan().tolist() == [True, True]
    assert ms_ssim(x.mT, x.mT).isnan().tolist() == [True, True]


def test_the_smallest_side_with_ms_ssim_has_it() -> None:
    x = to_batch(draw(MS_SSIM_SIDE, MS_SSIM_SIDE, 0))
    assert ms_ssim(x, x).tolist() == pytest.approx([1.0])


# Masks


def test_segmentation_scores_are_those_of_counting_pixels() -> None:
    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 4, 5000), rng.integers(0, 4, 5000)
    said[:3000] = true[:3000]
    confusion = np.zeros((5, 5), int)
    np.add.at(confusion, (true, said), 1)  # class 4 is nowhere
    scores = segmentation_scores(torch.from_numpy(confusion))
    iou = [((true == k) & (said == k)).sum() / ((true == k) | (said == k)).sum() for k in range(4)]
    recall = [(said[true == k] == k).mean() for k in range(4)]
    assert scores.iou[:4].tolist() == pytest.approx(iou)
    assert scores.iou[4].isnan()
    assert scores.miou.item() == pytest.approx(np.mean(iou))
    assert scores.macc.item() == pytest.approx(np.mean(recall))
    assert scores.pixel.item() == pytest.approx((true == said).mean())


def test_a_class_that_was_only_predicted_counts_against_miou_but_not_accuracy() -> None:
    scores = segmentation_scores(torch.tensor([[3, 1], [0, 0]]))
    assert scores.miou.item() == pytest.approx(0.375)
    assert scores.macc.item() == pytest.approx(0.75)
