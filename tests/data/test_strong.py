import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import TrivialAugmentWide

from cdinfer.data.strong import AREA, OPERATIONS, STRENGTHS, change, random_change, random_part
from tests.conftest import draw


@pytest.fixture(scope="module")
def changes() -> set[bytes]:
    """Every change there is of one picture."""
    image = Image.fromarray(draw(24, 32, 3))
    return {
        np.asarray(change(image, name, step, sign)).tobytes()
        for name in OPERATIONS
        for step in range(STRENGTHS)
        for sign in (-1, 1)
    }


def test_changes_are_those_of_torchvision(changes: set[bytes]) -> None:
    theirs, image = TrivialAugmentWide(), Image.fromarray(draw(24, 32, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [np.asarray(theirs(image)).tobytes() for _ in range(1500)]
    assert changes >= set(found)
    assert len(set(found)) > 300


def test_all_changes_are_drawn(changes: set[bytes]) -> None:
    rng, picture = np.random.default_rng(0), draw(24, 32, 3)
    found = {random_change(picture, rng).tobytes() for _ in range(4000)}
    assert found <= changes
    assert len(found) > 0.9 * len(changes)


@pytest.mark.parametrize("size", [(16, 16), (61, 45), (9, 64), (1, 1)])
def test_parts_have_the_size_asked_for(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert random_part(draw(*size, seed=1), 16, rng).shape == (16, 16, 3)


def test_parts_are_of_the_areas_and_places_promised() -> None:
    ys, xs = np.mgrid[:200, :200].astype(np.uint8)
    picture = np.stack([ys, xs, np.zeros_like(xs)], -1)
    rng, areas, tops = np.random.default_rng(0), [], []
    for _ in range(500):
        part = random_part(picture, 32, rng)[4:-4, 4:-4].astype(float)  # off the border's filter
        height, width = ((part[-1, 0, 0] - part[0, 0, 0]), (part[0, -1, 1] - part[0, 0, 1]))
        areas.append(height * width * (32 / 23) ** 2 / 200**2)
        tops.append(part[0, 0, 0])
    assert AREA[0] * 0.9 < min(areas) < AREA[0] * 1.1
    assert 0.85 < max(areas) < AREA[1] * 1.1
    assert min(tops) < 20
    assert max(tops) > 70
