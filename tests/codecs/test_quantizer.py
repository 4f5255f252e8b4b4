import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from cdinfer.codecs.quantizer import (
    code_length,
    entropy,
    histogram,
    nearest,
    quantize,
)

CENTERS = torch.tensor([-1.5, -0.25, 0.5, 2.0], dtype=torch.float64)


def latents(seed: int = 0) -> Tensor:
    """``(2, 3, 4, 5)`` values around the centers, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)


def soft_assignment(z: Tensor, centers: Tensor, hardness: float) -> Tensor:
    """The written formula, without ``softmax``."""
    weights = torch.exp(-hardness * (z[..., None] - centers).square())
    return weights / weights.sum(-1, keepdim=True)


def test_the_nearest_center_wins() -> None:
    z = latents()
    by_hand = [min(range(4), key=lambda j: abs(v - CENTERS[j])) for v in z.flatten()]
    assert nearest(z, CENTERS).flatten().tolist() == by_hand


def test_a_tie_goes_to_the_first() -> None:
    centers = torch.tensor([0.0, 1.0, 1.0, 2.0])
    assert nearest(torch.tensor([0.5, 1.0, 1.5]), centers).tolist() == [0, 1, 1]


def test_training_and_coding_choose_the_same_symbols_next_to_a_boundary() -> None:
    centers = torch.linspace(-2, 2, 6)
    steps = [(centers[1:] + centers[:-1]) / 2]
    for limit in [9.0] * 8 + [-9.0] * 16:  # eight floats up, then sixteen down
        steps.append(torch.nextafter(steps[-1], torch.full((5,), limit)))
    z = torch.stack(steps)[None, None]
    assert torch.equal(quantize(z, centers).symbols, nearest(z, centers))
    assert len(nearest(z, centers).unique()) == 6


@pytest.mark.parametrize("hardness", [0.3, 1.0, 20.0])
def test_the_forward_pass_yields_centers_exactly(hardness: float) -> None:
    quantized = quantize(latents(), CENTERS, hardness)
    torch.testing.assert_close(quantized.y, CENTERS[quantized.symbols], rtol=1e-14, atol=0)
    assert torch.equal(quantized.symbols, nearest(latents(), CENTERS))
    torch.testing.assert_close(quantized.soft, soft_assignment(latents(), CENTERS, hardness))


@pytest.mark.parametrize("hardness", [0.3, 1.0, 4.0])
def test_the_backward_pass_is_that_of_the_soft_assignment(hardness: float) -> None:
    z, centers = latents().requires_grad_(), CENTERS.clone().requires_grad_()
    weights = latents(1)
    ours = torch.autograd.grad((weights * quantize(z, centers, hardness).y).sum(), [z, centers])
    y_soft = soft_assignment(z, centers, hardness) @ centers
    formula = torch.autograd.grad((weights * y_soft).sum(), [z, centers])
    torch.testing.assert_close(ours, formula)


@pytest.mark.parametrize("hardness", [0.5, 1.0, 3.0])
def test_between_two_centers_the_gradient_is_known_by_hand(hardness: float) -> None:
    # Centers -1 and 1: q = sigmoid(4 h z), so y_soft = tanh(2 h z) and its slope at 0 is 2 h.
    z = torch.zeros(1, 1, 1, 1, requires_grad=True)
    centers = torch.tensor([-1.0, 1.0], requires_grad=True)
    quantize(z, centers, hardness).y.backward()
    assert z.grad is not None
    assert centers.grad is not None
    assert z.grad.item() == pytest.approx(2 * hardness)
    assert centers.grad.tolist() == pytest.approx([0.5 - hardness, 0.5 - hardness])


def test_symbols_are_counted_per_channel() -> None:
    symbols = quantize(latents(), CENTERS).symbols
    by_numpy = [np.bincount(symbols[:, c].flatten().numpy(), minlength=4) for c in range(3)]
    np.testing.assert_array_equal(histogram(symbols, 4).numpy(), by_numpy)


def test_entropy_is_that_of_scipy() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (7, 6))
    expected = scipy.stats.entropy(counts, base=2, axis=1)
    np.testing.assert_allclose(entropy(torch.from_numpy(counts)), expected, rtol=1e-6)


def test_a_channel_without_symbols_has_no_entropy() -> None:
    assert entropy(torch.zeros(1, 6)).item() == 0


def test_the_rate_has_the_value_of_the_hard_symbols() -> None:
    quantized = quantize(latents(), CENTERS)
    p = torch.softmax(torch.arange(12.0, dtype=torch.float64).view(3, 4).sin(), -1)
    by_hand = [
        -np.log2(p[c, s].item()) for c in range(3) for s in quantized.symbols[:, c].flatten()
    ]
    bits = code_length(quantized, p)
    assert bits.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(bits.transpose(0, 1).flatten(), by_hand)


def test_the_rate_has_the_gradient_of_the_soft_assignment() -> None:
    z, centers = latents().requires_grad_(), CENTERS.clone().requires_grad_()
    p = torch.softmax(torch.arange(12.0, dtype=torch.float64).view(3, 4).cos(), -1)
    bits = code_length(quantize(z, centers), p).sum()
    q = soft_assignment(z, centers, 1.0)
    formula = -(q * torch.log2(p)[None, :, None, None, :]).sum()
    torch.testing.assert_close(
        torch.autograd.grad(bits, [z, centers]), torch.autograd.grad(formula, [z, centers])
    )
