import numpy as np
import pytest
import torch

from cdinfer.losses import compression_loss, distortion


def test_distortion_is_the_squared_error_of_eight_bit_pictures() -> None:
    rng = np.random.default_rng(0)
    x, x_hat = rng.integers(0, 256, (2, 2, 3, 8, 6))
    by_numpy = np.mean((x - x_hat) ** 2)
    ours = distortion(torch.from_numpy(x_hat) / 255, torch.from_numpy(x) / 255)
    assert ours.item() == pytest.approx(by_numpy, rel=1e-5)


@pytest.mark.parametrize(
    ("entropy", "loss", "slope"), [(1.5, 100 + 150 * 0.5, 150), (0.9, 100, 0), (0.0, 100, 0)]
)
def test_bits_cost_something_only_above_the_target(
    entropy: float, loss: float, slope: float
) -> None:
    h = torch.tensor(entropy, requires_grad=True)
    total = compression_loss(torch.tensor(100.0), h, torch.tensor(1.0), beta=150.0)
    total.backward()
    assert total.item() == pytest.approx(loss)
    assert h.grad is not None
    assert h.grad.item() == slope


def test_distortion_always_counts_once() -> None:
    d = torch.tensor(7.0, requires_grad=True)
    compression_loss(d, torch.tensor(3.0), torch.tensor(1.0), beta=150.0).backward()
    assert d.grad is not None
    assert d.grad.item() == 1
