import io

import numpy as np
import pytest
import torch
from PIL import Image

from cdinfer.metrics import psnr
from cdinfer.studies.demo import equal_quality, jpeg, scan_size, through_jpeg
from cdinfer.studies.demo_table import tables
from tests.conftest import draw


@pytest.fixture
def grey() -> list[Image.Image]:
    return [Image.fromarray(draw(48, 64, seed)).convert("L") for seed in range(3)]


def to_batch(pictures: list[Image.Image]) -> torch.Tensor:
    levels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
    return (levels[:, None] / 255).expand(-1, 3, -1, -1)


def test_the_scan_of_a_jpeg_starts_after_its_ten_byte_header(grey: list[Image.Image]) -> None:
    for picture in grey:
        file = jpeg(picture, 30)
        assert scan_size(file) == len(file) - file.index(b"\xff\xda\x00\x08") - 10 - 2


def test_tables_and_sizes_of_a_jpeg_are_not_part_of_its_scan(grey: list[Image.Image]) -> None:
    heads = {len(jpeg(picture, 30)) - scan_size(jpeg(picture, 30)) for picture in grey}
    assert len(heads) == 1
    assert 300 < heads.pop() < 400  # two markers, JFIF, a 64-byte table, two Huffman tables


def test_jpeg_of_equal_quality_is_the_first_to_reach_the_target(grey: list[Image.Image]) -> None:
    def quality_of(quality: int) -> float:
        decoded = [Image.open(io.BytesIO(jpeg(picture, quality))) for picture in grey]
        return float(psnr(to_batch(decoded), to_batch(grey)).mean())

    x = to_batch(grey)
    for target in (30.0, 36.0):
        quality = equal_quality(x, target)
        assert quality_of(quality) >= target > quality_of(quality - 1)
    assert equal_quality(x, 5.0) == 1
    assert equal_quality(x, 99.0) == 95
    torch.testing.assert_close(
        through_jpeg(x, 20), to_batch([Image.open(io.BytesIO(jpeg(p, 20))) for p in grey])
    )


def test_tables_say_what_was_measured() -> None:
    def row(name: str, size: float, db: float | None) -> dict[str, object]:
        return {"stored_as": name, "bytes": size, "bpp": size * 8 / 4096, "psnr": db}

    text = tables(
        {
            "pictures": 1440,
            "test_pictures": 320,
            "height": 64,
            "width": 64,
            "classes": list("abcdefgh"),
            "codec_bytes": 333_000,
            "encoder_macs": 19_480_576,
            "decoder_macs": 19_480_576,
            "threads": 2,
            "storage": [
                row("PNG, grey: the originals", 2600.0, None),
                row(".cdi files", 170.0, 25.04),
                row(".cdi without headers", 148.0, 25.04),
            ],
            "networks": [
                {
                    "network": "CResNet-51, width 0.25",
                    "reads": ".cdi files",
                    "crop": 48,
                    "top1": 0.78125,
                    "macs": 20_416_000,
                    "per_second": 1234,
                }
            ],
        }
    )
    assert "| .cdi files               |   170 |      0.332 |     25.0 |   15.3x |" in text
    assert "| CResNet-51, width 0.25 | .cdi files | 78.1 % | 20.4 |      1,234 |" in text
    assert "centre of 48 x 48 (chance: 12.5 %)" in text
    assert "the 22 bytes of header are 13 % of a .cdi file;" in text
    assert "at 256 x 256 pixels they would be 0.8 %" in text
    assert "333,000 bytes a set" in text
