import pytest
import torch
import torch.nn.functional as F

from cdinfer.models import ASPP, LightDecoder, count_macs


def test_aspp_sums_four_dilated_classifiers_of_the_papers_rates() -> None:
    torch.manual_seed(0)
    head = ASPP(features=6, features_stride=8, channels=4, stride=8, num_classes=3)
    features = torch.rand(2, 6, 9, 7)
    expected = torch.zeros(2, 3, 9, 7)
    for conv, rate in zip(head.branches, (6, 12, 18, 24), strict=True):
        expected += F.conv2d(features, conv.weight, conv.bias, padding=rate, dilation=rate)
    torch.testing.assert_close(head(features, torch.empty(0)), expected)
    assert head.stride == 8


def test_aspp_of_the_paper_has_a_million_and_a_half_parameters() -> None:
    with torch.device("meta"):
        head = ASPP(features=2048, features_stride=8, channels=16, stride=8, num_classes=21)
    assert sum(p.numel() for p in head.parameters()) == 4 * (9 * 2048 * 21 + 21)  # 1.55 M


def test_aspp_on_coarser_features_sees_as_far_in_pixels() -> None:
    head = ASPP(features=6, features_stride=16, channels=4, stride=8, num_classes=3)
    assert [conv.dilation for conv in head.branches] == [(3, 3), (6, 6), (9, 9), (12, 12)]
    assert head.stride == 16


@pytest.mark.parametrize(("height", "width"), [(8, 6), (9, 7), (1, 1)])
def test_the_light_decoder_answers_on_the_grid_of_the_latents(height: int, width: int) -> None:
    head = LightDecoder(features=32, features_stride=16, channels=4, stride=8, num_classes=3)
    features = torch.rand(2, 32, -(-height // 2), -(-width // 2))
    y = torch.rand(2, 4, height, width)
    assert head.eval()(features, y).shape == (2, 3, height, width)
    assert head.stride == 8


def test_the_light_decoder_reads_pixels_in_patches() -> None:
    head = LightDecoder(features=32, features_stride=32, channels=3, stride=1, num_classes=3)
    assert head.eval()(torch.rand(1, 32, 2, 2), torch.rand(1, 3, 33, 47)).shape == (1, 3, 5, 6)


@pytest.mark.parametrize("features_stride", [16, 32])
def test_coarse_features_land_on_the_pixels_they_stand_for(features_stride: int) -> None:
    torch.manual_seed(0)
    head = LightDecoder(
        features=32, features_stride=features_stride, channels=4, stride=8, num_classes=3
    ).eval()
    for branch in (*head.branches, *head.fuse):  # nothing spreads: what remains is enlarging
        branch[0].weight.data.zero_()
        branch[0].weight.data[range(192), range(192) if branch in head.fuse else 0, 1, 1] = 1
    step = features_stride // 8
    y = torch.zeros(1, 4, 3 * step - 1, 3 * step - 1)  # the last step reaches beyond
    features = torch.zeros(1, 32, 3, 3)
    features[..., 1, 1] = 1
    change = (head(features, y) - head(torch.zeros_like(features), y)).abs().sum(1)[0]
    there = change[step : 2 * step, step : 2 * step].sum() / change.sum()
    assert there > 0.4  # bilinear: the rest lies half a step around
    centre = (change.sum(1) * torch.arange(len(change))).sum() / change.sum()
    assert centre.item() == pytest.approx(1.5 * step - 0.5, abs=0.05)


def test_the_light_decoder_finds_borders_in_the_latents_alone() -> None:
    torch.manual_seed(0)
    head = LightDecoder(features=32, features_stride=16, channels=4, stride=8, num_classes=3).eval()
    features, y = torch.zeros(1, 32, 4, 4), torch.zeros(1, 4, 8, 8)
    y[..., 5, 2] = 1
    change = (head(features, y) - head(features, torch.zeros_like(y))).abs().sum(1)[0]
    rows, columns = change.nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (3, 7)  # two 3x3 convolutions around row 5
    assert (int(columns.min()), int(columns.max())) == (0, 4)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    head = LightDecoder(features=32, features_stride=16, channels=4, stride=8, num_classes=3)
    head(torch.rand(2, 32, 8, 8), torch.rand(2, 4, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("features_stride", [16, 32])
def test_crops_of_96_pixels_teach_every_tap_of_the_light_decoder(features_stride: int) -> None:
    torch.manual_seed(0)
    head = LightDecoder(
        features=8, features_stride=features_stride, channels=4, stride=8, num_classes=3
    )
    side = 96 // features_stride
    head(torch.rand(2, 8, side, side), torch.rand(2, 4, 12, 12)).square().sum().backward()
    for branch in head.branches:
        assert branch[0].weight.grad.abs().amax((0, 1)).gt(0).all()


def test_the_light_decoder_starts_undecided_and_with_filters_of_like_size() -> None:
    torch.manual_seed(0)
    head = LightDecoder(features=32, features_stride=16, channels=4, stride=8, num_classes=3)
    logits = head(torch.rand(2, 32, 8, 8), torch.rand(2, 4, 16, 16))
    assert logits.abs().max() < 1
    sizes = [branch[0].weight.square().sum((1, 2, 3)).mean().item() for branch in head.branches]
    assert sizes == pytest.approx([2] * 4, rel=0.1)


def test_inputs_coarser_than_an_eighth_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="at most 8 pixels a step, got 16; use ASPP as head"):
        LightDecoder(features=32, features_stride=32, channels=192, stride=16, num_classes=3)


def test_macs_of_aspp_are_those_of_its_filters() -> None:
    head = ASPP(features=6, features_stride=8, channels=4, stride=8, num_classes=3)
    assert count_macs(head, (1, 6, 9, 7), (1, 4, 9, 7)) == 4 * 9 * 6 * 3 * 9 * 7
