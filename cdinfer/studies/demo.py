"""What the demo made, measured: bytes on disk, accuracy, cost and speed.

    storage   PNG and JPEG of the same pictures, .cdi files, shards
    networks  one that reads .cdi files, one that reads the original PNG files

JPEG is Pillow's, grey as the pictures are, at the lowest quality whose mean PSNR on the test
pictures reaches ours. What is left "without headers" is what differs between the files of a
set: JPEG's entropy-coded scan, our payload.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from cdinfer.bitstream.container import parse
from cdinfer.codecs.stored import read_codec
from cdinfer.data.images import find_images, read_image, to_tensor
from cdinfer.metrics import psnr, round_to_8_bits
from cdinfer.models import count_macs
from cdinfer.runs import ClassifierRun, find_run, load_run, read_about

#: Passes over the test files, of which the fastest counts.
PASSES = 3


class Places(NamedTuple):
    """What the demo left behind.

    Attributes:
        pictures: ``{train,val,test}/CLASS/NAME.png``, grey and of one size.
        shards: the exported set.
        files: ``{train,val,test}/CLASS/NAME.cdi``, the files inside the shards.
        latents: run of the network on latents.
        originals: run of the network on pictures.
    """

    pictures: Path
    shards: Path
    files: Path
    latents: Path
    originals: Path


def run(places: Places) -> dict[str, Any]:
    """Measure and return plain JSON values: ``storage`` and ``networks`` are lists of rows."""
    tests = find_images(places.pictures / "test")
    x = load_pictures(tests)
    codec = read_codec(places.shards / "codec")
    files = [path.read_bytes() for path in cdi_files(places, tests)]
    parts = [codec.decompress(files[i : i + 32]) for i in range(0, len(files), 32)]
    x_hat = round_to_8_bits(torch.cat(parts))
    latent = codec.encode(x[:1]).y
    classes = load_run(places.latents).classes
    return {
        "pictures": len(find_images(places.pictures)),
        "test_pictures": len(tests),
        "height": x.shape[-2],
        "width": x.shape[-1],
        "classes": classes,
        "bpp_nominal": codec.bpp,
        "codec_bytes": sum(f.stat().st_size for f in (places.shards / "codec").iterdir()),
        "storage": storage_rows(places, x, float(psnr(x_hat, x).mean())),
        "networks": [
            network_row(places.latents, cdi_files(places, tests), codec.channels, codec.stride),
            network_row(places.originals, tests, channels=3, stride=1),
        ],
        "encoder_macs": count_macs(codec.g_a, (1, *x.shape[1:])),
        "decoder_macs": count_macs(codec.g_s, (1, *latent.shape[1:])),
        "threads": torch.get_num_threads(),
    }


def load_pictures(paths: Sequence[Path]) -> Tensor:
    """Return pictures of one size as ``(N, 3, H, W)`` in [0, 1]."""
    return torch.stack([to_tensor(read_image(path)) for path in paths])


def cdi_files(places: Places, pictures: Sequence[Path]) -> list[Path]:
    """Return the ``.cdi`` file of each picture."""
    keys = [path.relative_to(places.pictures) for path in pictures]
    return [places.files / key.with_suffix(".cdi") for key in keys]


def storage_rows(places: Places, x: Tensor, our_psnr: float) -> list[dict[str, Any]]:
    """Return mean bytes of all pictures in each form, and PSNR in dB on the test pictures ``x``.

    Rows are ``stored_as, bytes, bpp, psnr``; a lossless form has no PSNR.
    """
    pictures = find_images(places.pictures)
    quality = equal_quality(x, our_psnr)
    jpegs = [jpeg(Image.open(path).convert("L"), quality) for path in pictures]
    files = [path.read_bytes() for path in cdi_files(places, pictures)]
    shards = [*places.shards.glob("*.tar"), places.shards / "index.json"]
    jpeg_psnr = float(psnr(through_jpeg(x, quality), x).mean())
    totals = {
        "PNG, grey: the originals": (sum(path.stat().st_size for path in pictures), None),
        f"JPEG, grey, quality {quality}": (sum(map(len, jpegs)), jpeg_psnr),
        "JPEG without its headers": (sum(map(scan_size, jpegs)), jpeg_psnr),
        ".cdi files": (sum(map(len, files)), our_psnr),
        "shards, all their bytes": (sum(path.stat().st_size for path in shards), our_psnr),
        ".cdi without headers": (sum(len(parse(file).payload) for file in files), our_psnr),
    }
    pixels = x.shape[-2] * x.shape[-1]
    return [
        {
            "stored_as": name,
            "bytes": round(total / len(pictures), 1),
            "bpp": round(8 * total / len(pictures) / pixels, 4),
            "psnr": None if db is None else round(db, 2),
        }
        for name, (total, db) in totals.items()
    ]


def network_row(folder: Path, files: Sequence[Path], channels: int, stride: int) -> dict[str, Any]:
    """Predict ``files``, named ``CLASS/NAME``, and return the row of their network.

    Fields: ``network, reads``; ``crop``, the side of the centre that it sees, in pixels;
    ``top1`` in [0, 1]; ``macs`` a picture; ``per_second``, pictures from files on disk to
    classes, reading and decoding included.

    Args:
        folder: the network's run.
        files: what it reads; pictures are no smaller than its crop.
        channels: of the network's input.
        stride: pixels for each step of it.
    """
    trained = load_run(folder)
    assert isinstance(trained, ClassifierRun)
    crop = trained.inputs.crop
    assert crop is not None
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        predictions = list(trained.predict(files))
        seconds.append(time.perf_counter() - start)
    right = sum(p.name == Path(p.file).parent.name for p in predictions)
    recipe = read_about(find_run(folder))["net"]
    return {
        "network": describe_net(recipe["class_path"], recipe["init_args"]),
        "reads": f"{files[0].suffix} files",
        "crop": crop,
        "top1": right / len(files),
        "macs": count_macs(trained.net, (1, channels, *[crop // stride] * 2)),
        "per_second": round(len(files) / min(seconds)),
    }


def describe_net(class_path: str, options: dict[str, Any]) -> str:
    """Return a network's name.

    Example:
        >>> describe_net("cdinfer.models.CResNet", {"depth": 39, "width": 0.25})
        'CResNet-39, width 0.25'
    """
    return f"{class_path.rpartition('.')[2]}-{options['depth']}, width {options['width']:g}"


def equal_quality(x: Tensor, target: float) -> int:
    """Return the lowest JPEG quality, 1 to 95, whose mean PSNR on ``x`` reaches ``target`` dB."""
    for quality in range(1, 95):
        if float(psnr(through_jpeg(x, quality), x).mean()) >= target:
            return quality
    return 95


def through_jpeg(x: Tensor, quality: int) -> Tensor:
    """Return grey pictures ``(N, 3, H, W)`` as JPEG keeps them."""
    levels = (x[:, 0] * 255).round().byte().numpy()
    files = [jpeg(Image.fromarray(picture), quality) for picture in levels]
    return torch.stack([to_tensor(read_image(file)) for file in files])


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return the JPEG file of a picture."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def scan_size(file: bytes) -> int:
    """Return the bytes of a JPEG's entropy-coded scan: all but markers, tables and sizes.

    Reference:
        ITU-T T.81, B.1.1.4 (segments are marker, length, content; SOS begins the scan).
    """
    place = 2  # after SOI
    while True:
        marker, length = file[place + 1], int.from_bytes(file[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == 0xDA:
            return len(file) - place - 2  # EOI
