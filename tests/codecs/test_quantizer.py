import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from cdinfer.codecs.prior import logistic_bits
from cdinfer.codecs.quantizer import LIMIT, SoftToHard, Steps, entropy, histogram, nearest

CENTERS = torch.tensor([-1.5, -0.25, 0.5, 2.0], dtype=torch.float64)
SHAPE = (2, 3, 4, 5)


def latents(seed: int = 0, spread: float = 1.5) -> Tensor:
    """``(2, 3, 4, 5)`` values around the centers, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(SHAPE, dtype=torch.float64, generator=generator)


def steps(*sizes: float) -> Steps:
    """A quantizer of given steps whose prior looks around, in float64 and eval mode."""
    quantizer = Steps(len(sizes)).double().eval()
    generator = torch.Generator().manual_seed(9)
    for weight in quantizer.prior.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    quantizer.log_step.data = torch.tensor(sizes, dtype=torch.float64).log()
    return quantizer


def soft_to_hard(hardness: float = 1.0) -> SoftToHard:
    quantizer = SoftToHard(3, 4, hardness).double().eval()
    quantizer.centers.data = CENTERS.clone()
    p = torch.softmax(torch.arange(12.0, dtype=torch.float64).view(3, 4).sin(), -1)
    quantizer.frequencies.copy_(p)
    return quantizer


def soft_assignment(z: Tensor, centers: Tensor, hardness: float) -> Tensor:
    """The written formula, without ``softmax``."""
    weights = torch.exp(-hardness * (z[..., None] - centers).square())
    return weights / weights.sum(-1, keepdim=True)


# Steps


def test_numbers_are_multiples_of_each_channels_step_rounded() -> None:
    z, sizes = latents(), np.array([0.1, 0.7, 2.0])[:, None, None]
    k = np.rint(z.numpy() / sizes)
    quantizer = steps(*sizes.flat)
    assert quantizer.numbers(z).dtype == torch.int16
    np.testing.assert_array_equal(quantizer.numbers(z), k)
    np.testing.assert_allclose(quantizer(z).y.detach(), k * sizes)
    rows = torch.tensor(k[0].reshape(3, -1))
    np.testing.assert_allclose(quantizer.values(rows).detach(), k[0].reshape(3, -1) * sizes[..., 0])


def test_numbers_are_bounded() -> None:
    quantizer, z = steps(1.0, 1.0, 1.0), 1e6 * latents()
    assert quantizer.numbers(z).abs().min() == LIMIT
    assert torch.equal(quantizer(z).y, z.sign() * LIMIT)
    assert quantizer.values(torch.tensor([[-99, 99]] * 3)).tolist() == [[-LIMIT, LIMIT]] * 3
    assert quantizer.limits == (-LIMIT, LIMIT)


def test_gradients_pass_as_if_nothing_was_rounded() -> None:
    quantizer, z, weights = steps(0.5, 0.5, 0.5), latents().requires_grad_(), latents(1)
    y = quantizer(z).y
    (weights * y).sum().backward()
    torch.testing.assert_close(z.grad, weights)
    # y = step * k and dk/dz = 1/step, so the step itself sees the rounding error alone.
    by_hand = (weights * (y - z)).sum((0, 2, 3)).detach()
    torch.testing.assert_close(quantizer.log_step.grad, by_hand)


@torch.no_grad()
def test_bits_of_numbers_are_those_under_the_prior() -> None:
    quantizer, z = steps(0.3, 0.7, 2.0), latents()
    k = quantizer.numbers(z).double()
    mean, scale = (tensor.numpy() for tensor in quantizer.prior(k))
    cdf = scipy.stats.logistic(mean, scale).cdf
    expected = -np.log2(np.maximum(cdf(k + 0.5) - cdf(k - 0.5), 2.0**-12))
    np.testing.assert_allclose(quantizer(z).bits, expected, rtol=1e-6)


@torch.no_grad()
def test_bits_while_training_are_of_noisy_values_in_the_context_of_rounded_ones() -> None:
    quantizer, z = steps(0.3, 0.7, 2.0).train(), latents()
    scaled = z / quantizer.log_step.exp().view(-1, 1, 1)
    mean, scale = quantizer.prior(scaled.round())
    torch.manual_seed(3)
    quantized = quantizer(z)
    torch.manual_seed(3)
    noise = torch.rand_like(z) - 0.5
    torch.testing.assert_close(quantized.bits, logistic_bits(scaled + noise, mean, scale))
    assert torch.equal(quantized.y, quantizer.eval()(z).y)


# Soft to hard


@pytest.mark.parametrize("hardness", [0.3, 1.0, 20.0])
def test_the_forward_pass_yields_centers_exactly(hardness: float) -> None:
    quantizer, z = soft_to_hard(hardness), latents()
    by_hand = [min(CENTERS.tolist(), key=lambda c: abs(v - c)) for v in z.flatten().tolist()]
    np.testing.assert_allclose(quantizer(z).y.detach().flatten(), by_hand, rtol=1e-14)
    k = quantizer.numbers(z)
    assert torch.equal(k, torch.bucketize(z, (CENTERS[1:] + CENTERS[:-1]) / 2).short() - 1)
    torch.testing.assert_close(quantizer.values(k[0].flatten(1)), quantizer(z).y[0].flatten(1))


@pytest.mark.parametrize("hardness", [0.3, 1.0, 4.0])
def test_the_backward_pass_is_that_of_the_soft_assignment(hardness: float) -> None:
    quantizer, z, weights = soft_to_hard(hardness), latents().requires_grad_(), latents(1)
    inputs = [z, quantizer.centers]
    ours = torch.autograd.grad((weights * quantizer(z).y).sum(), inputs)
    y_soft = soft_assignment(z, quantizer.centers, hardness) @ quantizer.centers
    torch.testing.assert_close(ours, torch.autograd.grad((weights * y_soft).sum(), inputs))


@pytest.mark.parametrize("hardness", [0.5, 1.0, 3.0])
def test_between_two_centers_the_gradient_is_known_by_hand(hardness: float) -> None:
    # Centers -1 and 1: q = sigmoid(4 h z), so y_soft = tanh(2 h z) and its slope at 0 is 2 h.
    z = torch.zeros(1, 1, 1, 1, requires_grad=True)
    quantizer = SoftToHard(1, 2, hardness)
    quantizer.centers.data = torch.tensor([-1.0, 1.0])
    quantizer(z).y.backward()
    assert z.grad is not None
    assert quantizer.centers.grad is not None
    assert z.grad.item() == pytest.approx(2 * hardness)
    assert quantizer.centers.grad.tolist() == pytest.approx([0.5 - hardness, 0.5 - hardness])


def test_the_rate_has_the_value_of_the_hard_symbols() -> None:
    quantizer, z = soft_to_hard(), latents()
    bits, symbols = quantizer(z).bits.detach(), quantizer.numbers(z) + 1
    p = quantizer.frequencies
    by_hand = [-np.log2(p[c, s].item()) for c in range(3) for s in symbols[:, c].flatten()]
    np.testing.assert_allclose(bits.transpose(0, 1).flatten(), by_hand)


def test_the_rate_has_the_gradient_of_the_soft_assignment() -> None:
    quantizer, z = soft_to_hard(), latents().requires_grad_()
    inputs = [z, quantizer.centers]
    ours = torch.autograd.grad(quantizer(z).bits.sum(), inputs)
    q = soft_assignment(z, quantizer.centers, 1.0)
    formula = -(q * torch.log2(quantizer.frequencies)[None, :, None, None, :]).sum()
    torch.testing.assert_close(ours, torch.autograd.grad(formula, inputs))


def test_the_running_histogram_moves_by_two_percent_a_step() -> None:
    quantizer, z = soft_to_hard().float(), latents().float()
    before = quantizer.frequencies.clone()
    quantizer(z)
    assert torch.equal(quantizer.frequencies, before)
    quantizer.train()(z)
    symbols = quantizer.numbers(z).numpy() + 1
    share = [np.bincount(symbols[:, c].ravel(), minlength=4) / 40 for c in range(3)]
    torch.testing.assert_close(
        quantizer.frequencies, 0.98 * before + 0.02 * torch.tensor(np.array(share)).float()
    )


def test_centers_may_cross_while_training() -> None:
    quantizer = SoftToHard(2, 4)
    quantizer.centers.data = torch.tensor([2.0, -1.5, 0.5, -0.25])
    assert quantizer.limits == (-1, 2)
    z = torch.tensor([-9.0, -0.3, 0.4, 9.0]).expand(1, 2, 1, 4)
    assert quantizer.numbers(z)[0, 1, 0].tolist() == [-1, 0, 1, 2]
    assert quantizer.values(quantizer.numbers(z)[0, :, 0])[0].tolist() == [-1.5, -0.25, 0.5, 2.0]
    assert quantizer.values(torch.tensor([[-7, 7]]))[0].tolist() == [-1.5, 2.0]


def test_an_encoder_may_lay_out_its_output_as_it_likes() -> None:
    z = latents().to(memory_format=torch.channels_last)
    for quantizer in (soft_to_hard(), steps(0.3, 0.7, 2.0)):
        assert torch.equal(quantizer.numbers(z), quantizer.numbers(z.contiguous()))


# Symbols


def test_the_nearest_center_of_each_channel_wins() -> None:
    z, sizes = latents().float(), torch.tensor([4, 2, 3])
    centers = torch.stack([CENTERS, CENTERS - 1, 2 * CENTERS]).float()
    symbols = nearest(z, centers, sizes)
    assert symbols.dtype == torch.uint8
    for c, size in enumerate(sizes.tolist()):
        distance = np.abs(z[:, c, ..., None].numpy() - centers[c, :size].numpy())
        np.testing.assert_array_equal(symbols[:, c], distance.argmin(-1))


def test_a_tie_goes_to_the_first() -> None:
    z = torch.tensor([0.5, 1.0, 1.5]).view(1, 1, 1, 3)
    symbols = nearest(z, torch.tensor([[0.0, 1.0, 2.0, 2.0]]), torch.tensor([3]))
    assert symbols.flatten().tolist() == [0, 1, 1]


def test_symbols_are_counted_per_channel() -> None:
    symbols = torch.randint(0, 4, SHAPE, generator=torch.Generator().manual_seed(0))
    by_numpy = [np.bincount(symbols[:, c].flatten().numpy(), minlength=4) for c in range(3)]
    np.testing.assert_array_equal(histogram(symbols, 4), by_numpy)


def test_entropy_is_that_of_scipy() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (7, 6))
    expected = scipy.stats.entropy(counts, base=2, axis=1)
    np.testing.assert_allclose(entropy(torch.from_numpy(counts)), expected, rtol=1e-6)


def test_a_channel_without_symbols_has_no_entropy() -> None:
    assert entropy(torch.zeros(1, 6)).item() == 0
