import numpy as np
import pytest
import torch

from cdinfer.codecs.base import LatentCodec, check_device, pad_to_multiple


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (8, 8), (9, 16), (17, 9)])
def test_padding_replicates_the_last_row_and_column(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    bottom, right = -height % 8, -width % 8
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (0, bottom), (0, right)], mode="edge")
    np.testing.assert_array_equal(pad_to_multiple(x, 8).numpy(), expected)


def test_a_picture_that_fits_is_not_copied() -> None:
    x = torch.zeros(1, 3, 16, 8)
    assert pad_to_multiple(x, 8) is x


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    with pytest.raises(ValueError, match="no CUDA device on this machine: give --device cpu"):
        check_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device(device)


def test_the_contract_of_latent_codecs_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        LatentCodec()  # type: ignore[abstract]
