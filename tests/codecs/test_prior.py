import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from cdinfer.bitstream import ContextModel
from cdinfer.codecs.prior import LEAST_SCALE, CausalPrior, logistic_bits

CHANNELS, HEIGHT, WIDTH = 3, 5, 6


@pytest.fixture
def prior() -> CausalPrior:
    """A prior whose every weight is set, those it must not use too."""
    prior = CausalPrior(CHANNELS)
    generator = torch.Generator().manual_seed(0)
    for weight in prior.parameters():
        weight.data = torch.randn(weight.shape, generator=generator)
    return prior


def numbers(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, CHANNELS, HEIGHT, WIDTH)
    return torch.randint(-4, 5, shape, generator=generator).float()


@torch.no_grad()
def test_what_is_not_decoded_yet_changes_nothing(prior: CausalPrior) -> None:
    k = numbers()
    before = torch.stack(prior(k)).flatten(2)  # (2, B, C * h * w): in the order of decoding
    for place in range(0, CHANNELS * HEIGHT * WIDTH, 7):
        moved = k.clone().flatten(1)
        moved[:, place] += 3
        after = torch.stack(prior(moved.view(k.shape))).flatten(2)
        assert torch.equal(after[..., : place + 1], before[..., : place + 1])
        if place < CHANNELS * HEIGHT * WIDTH - 1:
            assert not torch.equal(after, before)


@torch.no_grad()
def test_mean_and_scale_are_sums_over_the_neighbours(prior: CausalPrior) -> None:
    k = numbers(1)
    mean, scale = prior(k)
    padded = F.pad(k, (1, 1, 1, 1))
    for c, y, x in ((0, 0, 0), (0, 2, 5), (1, 4, 3), (2, 1, 0), (2, 3, 2)):
        own_mean = float(prior.mbias[c])
        own_scale = float(F.softplus(prior.bias[c]))
        for of in range(c + 1):
            for dy in range(3):
                for dx in range(3):
                    if of == c and (dy, dx) not in ((0, 0), (0, 1), (0, 2), (1, 0)):
                        continue
                    value = float(padded[1, of, y + dy, x + dx])
                    own_mean += float(prior.mean[c, of, dy, dx]) * value
                    size = (value**2 + 1e-4) ** 0.5 if 0 < y + dy <= HEIGHT else 0
                    size = size if 0 < x + dx <= WIDTH else 0
                    own_scale += float(F.softplus(prior.act[c, of, dy, dx])) * size
        assert float(mean[1, c, y, x]) == pytest.approx(own_mean, abs=1e-4)
        assert float(scale[1, c, y, x]) == pytest.approx(max(own_scale, LEAST_SCALE), abs=1e-4)


def test_its_taps_are_those_the_bitstream_allows() -> None:
    """Each tap alone makes a context model; each place beside them is refused."""
    mask = CausalPrior(2).mask
    flat = np.array([[4095, 1]] * 2)
    none, edges = np.zeros((0, 5), int), np.zeros((0, 2), int)
    for c, of, dy, dx in np.ndindex(*mask.shape):
        tap = np.array([[c, of, dy - 1, dx - 1, 16]])
        parts = (np.array([2, 2]), np.array([0, 0]), tap, none, edges, edges, flat)
        if mask[c, of, dy, dx]:
            ContextModel(*parts)
        else:
            with pytest.raises(ValueError, match="not decoded yet"):
                ContextModel(*parts)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.4, 0.3), (-2.6, 2.0)])
def test_bits_are_those_of_scipys_logistic(mean: float, scale: float) -> None:
    k = torch.arange(-6.0, 7, dtype=torch.float64)
    ours = logistic_bits(k, torch.tensor(mean), torch.tensor(scale))
    cdf = scipy.stats.logistic(mean, scale).cdf
    expected = -np.log2(cdf(k.numpy() + 0.5) - cdf(k.numpy() - 0.5))
    np.testing.assert_allclose(ours, np.minimum(expected, 12), rtol=1e-6)


def test_all_numbers_together_have_probability_one() -> None:
    k = torch.arange(-30.0, 31, dtype=torch.float64)
    p = 2 ** -logistic_bits(k, torch.tensor(0.3), torch.tensor(0.5))
    assert float(p[p > 2.0**-12].sum()) == pytest.approx(1, abs=1e-3)


def test_far_numbers_cost_no_more_than_the_coders_rarest() -> None:
    bits = logistic_bits(torch.tensor([-1e6, 60.0]), torch.zeros(2), torch.full((2,), LEAST_SCALE))
    assert bits.tolist() == [12, 12]
