from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.__main__ import main
from cdinfer.codecs import read_codec
from cdinfer.data.images import from_tensor, read_image, resize_short_side, to_tensor
from cdinfer.data.masks import resize_mask
from cdinfer.metrics import round_to_8_bits
from cdinfer.runs import SegmenterRun, load_run
from tests.conftest import draw, paint
from tests.runs.make import CLASSES, make_segmenter_run

SIZES = [(48, 64), (41, 23), (16, 16), (1, 9)]


def load(folder: Path) -> SegmenterRun:
    run = load_run(folder)
    assert isinstance(run, SegmenterRun)
    return run


def naive(run: SegmenterRun, x: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    with torch.no_grad():
        return run.net.enlarge(run.net(x), size).argmax(1)[0].numpy().astype(np.uint8)


def same(mask: np.ndarray, other: np.ndarray) -> bool:
    """Compare masks but for ties of rounding."""
    return mask.shape == other.shape and float((mask == other).mean()) > 0.99


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reads", ["latents", "decoded", "original"])
def test_every_pixel_of_an_input_of_any_size_gets_the_networks_class(
    reads: str, size: tuple[int, int], tiny_codec: Path, tmp_path: Path
) -> None:
    run = load(make_segmenter_run(tmp_path / "run", tiny_codec, reads))
    codec, picture = read_codec(tiny_codec), draw(*size, 3)
    bits, image = tmp_path / "x.cdi", tmp_path / "x.png"
    Image.fromarray(picture).save(image)
    x = to_tensor(picture)[None]
    bits.write_bytes(codec.compress(x)[0])
    if reads == "latents":
        x = codec.dequantize(codec.unpack([bits.read_bytes()])).y
    elif reads == "decoded":
        x = round_to_8_bits(codec.decompress([bits.read_bytes()]))
    expected = naive(run, x, size)
    (from_picture,) = run.predict([image])
    assert same(from_picture.mask, expected)
    assert np.array_equal(from_picture.picture(), picture)
    if reads == "original":
        with pytest.raises(ValueError, match="this run reads original pictures"):
            list(run.predict([bits]))
        return
    (from_bits,) = run.predict([bits])
    assert same(from_bits.mask, expected)
    assert np.array_equal(
        from_bits.picture(), from_tensor(codec.decompress([bits.read_bytes()])[0])
    )


def test_shares_are_those_of_the_classes_there_are_largest_first(
    segmenter_run: Path, files: list[Path]
) -> None:
    run = load(segmenter_run)
    for result in run.predict(files):
        counts = np.bincount(result.mask.ravel(), minlength=3)
        assert {CLASSES.index(name) for name in result.shares} == set(np.flatnonzero(counts))
        for name, share in result.shares.items():
            assert share == counts[CLASSES.index(name)] / result.mask.size
        assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True)


def test_a_resized_picture_gets_a_mask_of_its_own_size(tiny_codec: Path, tmp_path: Path) -> None:
    preprocessing = {"resize": 32, "crop": 16, "input": "latents"}
    run = load(make_segmenter_run(tmp_path / "run", tiny_codec, preprocessing=preprocessing))
    picture, small = draw(61, 77, 0), resize_short_side(draw(61, 77, 0), 32)
    Image.fromarray(picture).save(tmp_path / "x.png")
    y = read_codec(tiny_codec).encode(to_tensor(small)[None]).y
    (result,) = run.predict([tmp_path / "x.png"])
    assert result.mask.shape == (61, 77)
    assert same(result.mask, resize_mask(naive(run, y, small.shape[:2]), (61, 77)))


def test_what_is_read_together_gets_the_masks_it_gets_alone(
    segmenter_run: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    run, codec = load(segmenter_run), read_codec(tiny_codec)
    paths = []
    for number, size in enumerate([(48, 64), (48, 64), (41, 57), (48, 64), (45, 61)]):
        paths.append(tmp_path / f"{number}.cdi")  # all have 6 x 8 latents
        paths[-1].write_bytes(codec.compress(to_tensor(draw(*size, number))[None])[0])
    together = list(run.predict(paths))
    assert [Path(result.file) for result in together] == paths
    for result in together:
        (alone,) = run.predict([result.file])
        assert same(result.mask, alone.mask)


def test_a_set_is_segmented_as_its_pictures_are(
    segmenter_run: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    root = paint(tmp_path / "photos", {"train": 4, "test": 2}, sizes=[(48, 64), (33, 47)])
    assert main(["export", str(root), str(tmp_path / "set"), "--codec", str(tiny_codec)]) == 0
    run = load(segmenter_run)
    results = list(run.predict([tmp_path / "set"]))
    assert len(results) == 6
    for result in results:
        place = Path(result.file).relative_to(tmp_path / "set")
        (other,) = run.predict([root / place])
        assert same(result.mask, other.mask)
        assert result.picture().shape == read_image(root / place).shape
