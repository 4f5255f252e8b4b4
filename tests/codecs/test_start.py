import copy
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cdinfer.codecs import CAE
from cdinfer.codecs.cae import Design
from cdinfer.codecs.networks import Analysis, Synthesis
from cdinfer.codecs.quantizer import Steps
from cdinfer.codecs.start import BLOCKS, GENEROUS, SMALL, start_as_transform
from tests.conftest import draw

OURS: tuple[Design, ...] = ("cae", "cae-lite")


def pictures() -> list[Tensor]:
    """Six pictures of 12 x 16 blocks, all of which are used, with a little noise."""
    noise = np.random.default_rng(0)
    drawn = [draw(96, 128, seed) + noise.normal(0, 4, (96, 128, 3)) for seed in range(6)]
    return [
        torch.from_numpy(picture.clip(0, 255)).float().permute(2, 0, 1) / 255 for picture in drawn
    ]


def started(design: Design, images: list[Tensor], bpp: float = 0.33) -> CAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = CAE(bpp, 0.125, design)
    start_as_transform(codec, images, torch.Generator().manual_seed(0))
    return codec


def blocks_of(codec: CAE, images: list[Tensor]) -> npt.NDArray[np.float64]:
    """All 8 x 8 blocks, normalised as the codec does: ``(n, 192)``."""
    mean, std = codec.mean[0].numpy(), codec.std[0].numpy()
    blocks = [
        ((image.numpy() - mean) / std)[:, row : row + 8, column : column + 8].ravel()
        for image in images
        for row in range(0, image.shape[1], 8)
        for column in range(0, image.shape[2], 8)
    ]
    return np.array(blocks, np.float64)


@pytest.mark.parametrize("design", OURS)
def test_the_linear_paths_project_on_the_principal_components(design: Design) -> None:
    images = pictures()
    codec = started(design, images)
    assert isinstance(codec.g_a, Analysis)
    assert isinstance(codec.g_s, Synthesis)
    blocks = blocks_of(codec, images)
    assert len(blocks) / len(images) < BLOCKS
    _, _, components = np.linalg.svd(blocks, full_matrices=False)
    projected = blocks @ components[:16].T @ components[:16]
    x = ((torch.stack(images) - codec.mean) / codec.std).float()
    with torch.no_grad():
        z = codec.g_a.linear(x)
        x_hat = codec.g_s.linear(z).unfold(2, 8, 8).unfold(3, 8, 8)
    ours = x_hat.permute(0, 2, 3, 1, 4, 5).reshape(len(blocks), -1)
    np.testing.assert_allclose(ours, projected, atol=2e-3)
    assert 0.1 < float(z.std()) <= 1


@pytest.mark.parametrize("bpp", [0.0983, 0.33, 0.635])
def test_numbers_of_the_linear_path_have_the_entropy_aimed_at(bpp: float) -> None:
    images = pictures()
    codec = started("cae", images, bpp)
    assert isinstance(codec.g_a, Analysis)
    with torch.no_grad():
        z = codec.g_a.linear((torch.stack(images) - codec.mean) / codec.std)
        k = codec.quantizer.numbers(z).numpy()
    bits = 0.0
    for c in range(codec.channels):
        p = np.unique(k[:, c], return_counts=True)[1] / k[:, c].size
        bits -= float((p * np.log2(p)).sum())
    assert bits / 64 == pytest.approx(GENEROUS * bpp, rel=0.03)


@pytest.mark.parametrize("design", OURS)
def test_the_first_pictures_are_usable_at_once(design: Design) -> None:
    images = pictures()
    codec, untouched = started(design, images), CAE(0.33, 0.125, design)
    x = torch.stack(images)
    with torch.no_grad():
        psnr = [
            -10
            * math.log10(float((c.eval().decode(c.encode(x).y).clamp(0, 1) - x).square().mean()))
            for c in (codec, untouched)
        ]
    assert psnr[0] > 24
    assert psnr[0] > psnr[1] + 8


@pytest.mark.parametrize("design", OURS)
def test_the_prior_expects_a_rate_near_the_target(design: Design) -> None:
    images = pictures()
    codec = started(design, images).eval()
    with torch.no_grad():
        bits = codec.encode(torch.stack(images)).bits_est
    assert bits is not None
    assert 0.5 * 0.33 < float(bits.mean()) / (96 * 128) < 3 * 0.33


def test_only_the_last_convolutions_start_small() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = CAE(0.33, 0.125)
    after = copy.deepcopy(before)
    start_as_transform(after, pictures(), torch.Generator().manual_seed(0))
    for net in ("g_a", "g_s"):
        body = getattr(before, net).body
        last = max(i for i, layer in enumerate(body) if isinstance(layer, nn.Conv2d))
        for name, weight in body.named_parameters():
            factor = {f"{last}.weight": SMALL, f"{last}.bias": 0.0}.get(name, 1.0)
            now = getattr(after, net).body.get_parameter(name)
            torch.testing.assert_close(now, weight * factor)


def test_the_papers_design_is_left_alone() -> None:
    before = CAE(0.33, 0.125, "cae-paper")
    after = copy.deepcopy(before)
    start_as_transform(after, pictures(), torch.Generator())
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name


@pytest.mark.parametrize(
    "images",
    [
        [torch.zeros(3, 16, 24)],  # all black
        [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))],  # one block
        [torch.rand(3, 17, 9), torch.rand(3, 5, 90), torch.rand(3, 8, 33)],  # hardly any
    ],
)
def test_poor_pictures_are_no_reason_to_start_with_nan(images: list[Tensor]) -> None:
    codec = started("cae", images)
    assert isinstance(codec.quantizer, Steps)
    for name, weight in codec.named_parameters():
        assert weight.isfinite().all(), name
    y, _, bits = codec.encode(torch.stack([image[:, :5, :8] for image in images]))
    assert bits is not None
    assert bits.isfinite().all()
    assert codec.decode(y).isfinite().all()
