"""Picture quality, one number a picture: average those, never pool squared errors; and masks.

References:
    PSNR of images rounded to 8 bits, as a viewer gets them.
    Wang et al., Image quality assessment: from error visibility to structural similarity, 2004
        (SSIM, through torchmetrics).
    Wang et al., Multiscale structural similarity, 2003 (MS-SSIM, through torchmetrics).
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: SSIM looks through an 11-pixel Gaussian window (sigma 1.5): shorter sides have none.
SSIM_SIDE = 11

#: MS-SSIM halves a picture four times under an 11-pixel window: sides below 11 * 16 have none.
MS_SSIM_SIDE = 176


def round_to_8_bits(x: Tensor) -> Tensor:
    """Clip to [0, 1] and round to the 256 values a picture file holds."""
    return (x.clamp(0, 1) * 255).round() / 255


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the PSNR in dB of each of ``(B, 3, H, W)`` images in [0, 1]: ``(B,)``.

    Equal images give infinity.

    Example:
        >>> psnr(torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8))
        tensor([6.0206])
    """
    return -10 * torch.log10(((x_hat - x) ** 2).mean((1, 2, 3)))


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the SSIM of ``(B, 3, H, W)`` images in [0, 1], mean over channels: ``(B,)``.

    Mean over the windows that lie inside the picture, as Wang et al. and scikit-image have it.
    NaN where a side is shorter than ``SSIM_SIDE``.

    Example:
        >>> x = torch.rand(1, 3, 16, 16)
        >>> ssim(x, x).allclose(torch.ones(1))
        True
    """
    if min(x.shape[-2:]) < SSIM_SIDE:
        return torch.full((x.shape[0],), torch.nan, device=x.device)
    from torchmetrics.functional.image import structural_similarity_index_measure  # as below

    _, scores = structural_similarity_index_measure(
        x_hat, x, data_range=1.0, reduction="none", return_full_image=True
    )
    border = SSIM_SIDE // 2  # torchmetrics looks beyond the edge, at a mirrored picture
    return scores[..., border:-border, border:-border].mean((1, 2, 3))


def ms_ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the MS-SSIM of ``(B, 3, H, W)`` images in [0, 1]: ``(B,)``.

    NaN where a side is shorter than ``MS_SSIM_SIDE``: the measure is not defined there.

    Example:
        >>> x = torch.rand(1, 3, 176, 192)
        >>> ms_ssim(x, x).allclose(torch.ones(1))
        True
    """
    if min(x.shape[-2:]) < MS_SSIM_SIDE:
        return torch.full((x.shape[0],), torch.nan, device=x.device)
    # Here, not above: torchmetrics imports torchvision and scipy, which predict can do without.
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    score = multiscale_structural_similarity_index_measure(
        x_hat, x, data_range=1.0, reduction="none"
    )
    assert isinstance(score, Tensor)
    return score.reshape(-1)


class SegmentationScores(NamedTuple):
    """What one confusion matrix says, in [0, 1]; NaN for what is not in the set.

    Attributes:
        miou: mean of ``iou`` over the classes that are in the set or were predicted.
        macc: mean over the classes in the set of the share of their pixels that were found.
        pixel: share of all pixels that got their class.
        iou: intersection over union of each class, ``(K,)``.
    """

    miou: Tensor
    macc: Tensor
    pixel: Tensor
    iou: Tensor


def segmentation_scores(confusion: Tensor) -> SegmentationScores:
    """Score a whole set by its pixels, counted once: never the mean of pictures' scores.

    Args:
        confusion: ``(K, K)`` counts, a row for each true class, a column for each predicted one.

    Reference:
        Everingham et al., The PASCAL visual object classes challenge, 2015 (intersection over
        union over the set; void pixels are not counted).

    Example:
        >>> segmentation_scores(torch.tensor([[3, 1], [0, 4]])).iou
        tensor([0.7500, 0.8000])
    """
    confusion = confusion.double()
    found, true, said = confusion.diag(), confusion.sum(1), confusion.sum(0)
    iou, recall = found / (true + said - found), found / true
    scores = iou.nanmean(), recall.nanmean(), found.sum() / true.sum(), iou
    return SegmentationScores(*(score.float() for score in scores))
