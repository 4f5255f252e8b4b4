from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cdinfer.models import ASPP, CResNet, HeadRecipe, LightDecoder, ResNet, Segmenter, count_macs

small = partial(LightDecoder, width=0.125)


def build(output_stride: int, head: HeadRecipe) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(CResNet(8, 8, width=0.125, output_stride=output_stride), head, 8, 8, 5).eval()


@pytest.mark.parametrize("head", [ASPP, small])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(("height", "width"), [(64, 48), (61, 47), (16, 16), (1, 9)])
def test_every_pixel_gets_a_class(
    height: int, width: int, output_stride: int, head: HeadRecipe
) -> None:
    net = build(output_stride, head)
    y = torch.rand(2, 8, -(-height // 8), -(-width // 8))
    assert net.choose(net(y), (height, width)).shape == (2, height, width)
    assert net.enlarge(net(y), (height, width)).shape == (2, 5, height, width)


@pytest.mark.parametrize("head", [ASPP, small])
def test_pixels_become_masks_too(head: HeadRecipe) -> None:
    net = Segmenter(ResNet(width=0.125, output_stride=16), head, 3, 1, 5).eval()
    assert net.choose(net(torch.rand(1, 3, 61, 47)), (61, 47)).shape == (1, 61, 47)


def test_masks_are_those_of_the_naive_form() -> None:
    net = build(8, ASPP)
    y = torch.randn(2, 8, 9, 7)
    naive = F.interpolate(net(y), (72, 56), mode="bilinear", align_corners=False).argmax(1)
    masks = net.choose(net(y), (70, 51))
    assert masks.dtype == torch.uint8
    assert (masks == naive[:, :70, :51]).float().mean() > 0.999  # ties of rounding
    assert len(masks.unique()) > 1


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(200, 24), (64, 40), (129, 17), (1, 1)])
def test_strips_leave_no_seams(size: tuple[int, int], output_stride: int) -> None:
    net = build(output_stride, ASPP)
    logits = torch.randn(2, 5, *(-(-side // output_stride) for side in size))
    mask, whole = net.choose(logits, size), net.enlarge(logits, size).argmax(1)
    assert mask.shape == (2, *size)
    assert (mask != whole).sum() <= 2  # ties of rounding


def test_padding_at_the_far_end_moves_nothing() -> None:
    net = build(16, ASPP)
    logits = net(torch.rand(1, 8, 5, 5))  # of a grid of 3 x 3 steps, 48 x 48 pixels
    whole = net.enlarge(logits, (48, 48))
    torch.testing.assert_close(net.enlarge(logits, (33, 39)), whole[..., :33, :39])


def test_our_network_costs_less_than_a_third_of_the_paper_s_on_pixels() -> None:
    with torch.device("meta"):
        ours = Segmenter(CResNet(16, 8, output_stride=16), LightDecoder, 16, 8, 11)
        dilated = Segmenter(ResNet(output_stride=8), ASPP, 3, 1, 11)
    assert 3 * count_macs(ours, (1, 16, 45, 60)) < count_macs(dilated, (1, 3, 360, 480))
