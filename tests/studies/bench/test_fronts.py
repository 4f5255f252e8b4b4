from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cdinfer.codecs import CAE
from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import fronts, jpeg, peers
from cdinfer.studies.bench.pictures import Pictures

SIZE = (48, 32)


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> CAE:
    return read_codec(tiny_codec)


@pytest.fixture(scope="module")
def files(codec: CAE, few: Pictures) -> list[bytes]:
    return fronts.write_cdi(codec, few.pixels)


def test_latents_are_those_of_the_centre(codec: CAE, files: list[bytes], few: Pictures) -> None:
    front = fronts.from_latents(codec, files, SIZE)
    whole = codec.dequantize({"y": codec.unpack(files)["y"]}).y
    assert torch.equal(front.read(files), whole[:, :, 1:7, 2:6])
    assert front.shape == front.sees == (codec.channels, 6, 4)
    assert front.macs == 0


def test_only_the_centre_is_decoded(codec: CAE, files: list[bytes], few: Pictures) -> None:
    front = fronts.decoded(codec, fronts.from_latents(codec, files, SIZE))
    y = front.read(files)
    assert front.decoder is not None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        x = front.decoder(y)
    assert tuple(x.shape[1:]) == front.sees == (3, *SIZE)
    assert counter.get_total_flops() == 2 * len(files) * front.macs
    whole = fronts.cut(codec.decompress(files), SIZE)
    inside = (..., slice(16, 32), slice(12, 20))  # borders lack their neighbours
    assert torch.allclose(x[inside], whole[inside], atol=0.1)
    assert 0 <= x.min() <= x.max() <= 1


def test_jpeg_files_give_the_same_pixels_with_every_decoder(few: Pictures) -> None:
    files = [jpeg.encode(picture) for picture in few.pixels]
    found = fronts.from_jpeg(files, SIZE)
    assert [front.name for front in found] == [
        f"JPEG, {name}" for name in fronts.DECODERS if name in jpeg.installed()
    ]
    expected = np.stack(few.pixels)[:, 8:56, 16:48].transpose(0, 3, 1, 2) / 255
    for front in found:
        x = front.read(files)
        assert tuple(x.shape[1:]) == front.sees == (3, *SIZE)
        assert abs(x.numpy() - expected).mean() < 8 / 255


def test_compressai_decodes_what_it_encoded(few: Pictures) -> None:
    module = peers.find("compressai.models")
    if module is None:
        pytest.skip("CompressAI is not installed")
    front = fronts.from_compressai(few.pixels[:2], SIZE)
    assert front is not None
    assert front.decoder is not None
    y = front.read(front.files)
    with torch.no_grad():
        x = front.decoder(y)
    assert tuple(y.shape[1:]) == front.shape == (192, 3, 2)
    assert tuple(x.shape[1:]) == front.sees == (3, *SIZE)
    per_pixel = 2 * front.macs / (SIZE[0] * SIZE[1])
    assert 70_000 < per_pixel < 100_000  # FLOPs; 36.8 kMAC and GDN in the decoder, h_s on all


@pytest.mark.usefixtures("no_peers")
def test_without_peers_there_is_pillow(few: Pictures) -> None:
    assert fronts.from_compressai(few.pixels, SIZE) is None
    (front,) = fronts.from_jpeg([jpeg.encode(few.pixels[0])], SIZE)
    assert front.name == "JPEG, Pillow"
