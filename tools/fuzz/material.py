"""What is damaged: a narrow codec of random weights, a set it wrote, a run on that set."""

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cdinfer.cli.configs import find_config
from cdinfer.codecs import CAE, freeze, read_codec, save_codec
from cdinfer.codecs.zoo import find_codec
from cdinfer.data.export import Plan, export
from cdinfer.data.layout import Item, find_pictures
from cdinfer.data.masks import Masks
from cdinfer.models import Classifier, CResNet
from tools.fuzz.kinds import Kind, Several
from tools.fuzz.sets import Indices, Shards
from tools.fuzz.streams import Coder, Commands, Container, golden, read_tables, written
from tools.fuzz.trained import Checkpoints, Configs, Weights

#: Kinds in the order they run.
NAMES = ("container", "coder", "commands", "shards", "index", "weights", "config", "checkpoint")


def prepare(names: tuple[str, ...], folder: Path, seed: int) -> list[Kind]:
    """Return kinds by name, with what they need in ``folder``, an empty one."""
    rng = Random(f"material {seed}")
    codec = folder / "codec" / "codec"
    _write_codec(codec, seed)
    return [_kind(name, folder, codec, rng) for name in names]


def _kind(name: str, folder: Path, codec: Path, rng: Random) -> Kind:
    if name in ("container", "coder"):
        shipped = [read_tables(find_codec("cae-lite", bpp)) for bpp in (0.0983, 0.33, 0.635)]
        originals = golden()
        if name == "container":
            fields = (("EXIF", _exif()), ("ICCP", rng.randbytes(40)))
            extra = [written(t, fields[:n], rng) for t in shipped for n in (0, 1, 2)]
            return Container([*originals, *extra])
        return Coder([*{id(o.tables): o.tables for o in originals}.values(), *shipped])
    if name == "commands":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        fields = (("EXIF", _exif()), ("ICCP", profile))
        own = read_tables(codec)
        originals = [written(own, fields[n:], rng) for n in (0, 0, 1, 1, 2)]
        return Commands(folder, codec.parent, originals)
    if name in ("shards", "index"):
        of = Shards if name == "shards" else Indices
        folders = [folder / name / what for what in ("labels", "masks")]
        for place in folders:
            _write_set(place, codec)
        return Several([of(place) for place in folders])
    if name == "weights":
        shutil.copytree(codec, folder / name / "codec")
        _write_codec(folder / "other", 1)
        return Weights(folder / name / "codec", folder / "other")
    _write_run(folder / name, codec)
    return (Configs if name == "config" else Checkpoints)(folder / name)


def draw(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return a picture of waves, ``(height, width, 3)``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 24
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-3, 3, (3, 3))]
    return np.uint8(np.stack(waves, 2) * 90 + 128)


def _write_codec(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    codec = CAE(0.0983, width=0.125, design="cae-lite")
    x = torch.from_numpy(np.stack([draw(48, 64, n) for n in range(8)])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        spread = codec.g_a((x - codec.mean) / codec.std).std()
        codec.quantizer.log_step += (spread / 2).log()

    def collect(frozen: CAE) -> list[NDArray[np.int16]]:
        return list(frozen.numbers(x).numpy())

    save_codec(freeze(codec, collect), folder, {"trained": "not at all"})


def _write_set(folder: Path, codec: Path) -> None:
    """Export 12 pictures of two latent sizes, in blocks of 3 and shards of 5; with what it says."""
    photos = folder.with_name(f"{folder.name} photos")
    for number in range(12):
        split = ("train", "train", "val", "test")[number % 4]
        path = photos / split / "ab"[number // 4 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = draw(*((33, 48), (24, 40))[number % 3 == 0], number)
        Image.fromarray(picture).save(path)
        Image.fromarray(picture[..., 0] // 100).save(path.with_suffix(".mask"), "PNG")
    pictures = find_pictures(photos)
    if folder.name == "masks":
        splits = {
            split: [Item(i.key, -1, mask=f"{i.key.removesuffix('png')}mask") for i in items]
            for split, items in pictures.splits.items()
        }
        masks = Masks([[0, 0, 0], [99, 0, 0]], 2)
        pictures = pictures._replace(splits=splits, masks=masks)
    export(pictures, folder, codec, Plan(block=3, per_shard=5))


def _write_run(folder: Path, codec: Path) -> None:
    shutil.copytree(codec, folder / "codec")
    (folder / "checkpoints").mkdir()
    net = {"class_path": "cdinfer.models.CResNet", "init_args": {"depth": 39, "width": 0.0625}}
    own = read_codec(codec)
    about = {
        "task": "cls",
        "classes": ["bark", "leaf", "sand"],
        "stream": f"{own.stream:08x}",
        "preprocessing": {"resize": None, "crop": 32, "input": "latents"},
        "net": net,
    }
    (folder / "run.json").write_text(json.dumps(about))
    trunk = CResNet(channels=own.channels, stride=own.stride, sigma=False, depth=39, width=0.0625)
    weights = Classifier(trunk, 3).state_dict()
    checkpoint = {"state_dict": {f"net.{name}": tensor for name, tensor in weights.items()}}
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    config = yaml.safe_load(find_config("cls").read_text())
    config["data"] |= {"path": "photos", "resize": None, "splits": None, "crop": 32}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x8298] = "a description", 1, "nobody"
    exif.get_ifd(0x8769)[0x829A] = (1, 60)
    return exif.tobytes().removeprefix(b"Exif\0\0")
