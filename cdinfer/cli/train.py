"""``cdinfer train``: four flags in front of ``cdinfer fit``.

``cdinfer train --task cls --bpp 0.33 --data shards/ ARGS`` is exactly

    cdinfer fit --config configs/cls.yaml --data.path shards/ --model.codec shards/ ARGS

Every other setting is a YAML key or a dotted override; ``--print_config`` shows the merged
result without training. ``--config baselines/patch`` among ARGS lays one of the networks to compare
with over the task's config, ``--config paper/cls`` the recipe of a paper.
"""

import argparse
import difflib
from pathlib import Path

from cdinfer.__main__ import unknown
from cdinfer.bitstream.remote import is_url
from cdinfer.cli.configs import (
    FLAGS,
    find_config,
    known_baselines,
    known_tasks,
    name_files,
    options,
    read_config,
)
from cdinfer.cli.files import add_codec_flag
from cdinfer.codecs.stored import CODECS
from cdinfer.codecs.zoo import load_codec
from cdinfer.data.layout import find_pictures, is_shards
from cdinfer.data.sample import SIZE as SAMPLE_SIDE


def parser() -> argparse.ArgumentParser:
    """Return the parser of the four flags."""
    parse = argparse.ArgumentParser(
        "cdinfer train",
        allow_abbrev=False,
        description="Train a codec, or a network on latents or pixels.",
        epilog="More settings: --print_config shows them; override any, as in "
        "--trainer.max_epochs 5 --data.crop 224 --model.net.width 0.5. Networks to compare with: "
        f"--config NAME or FILE, of: {', '.join(known_baselines())}. Start from a trained network: "
        "--init_from.run RUN. Resume: --ckpt_path RUN/checkpoints/last.ckpt.",
    )
    parse.add_argument("--task", required=True, help=f"one of: {', '.join(known_tasks())}")
    add_codec_flag(parse, "that of the shards, else cae")
    parse.add_argument("--bpp", type=float, help="nominal rate in bits per pixel")
    parse.add_argument(
        "--data", help="pictures, shards, or the URL of shards (default: the embedded sample set)"
    )
    return parse


def expand(argv: list[str]) -> list[str]:
    """Translate the flags in ``argv`` to LightningCLI arguments.

    Raises:
        ValueError: if a flag is unknown here or flags contradict each other.
    """
    flags, rest = parser().parse_known_args(argv)
    rest = name_files(rest)
    if flags.task not in known_tasks():
        raise unknown("--task", flags.task, known_tasks())
    args = ["--config", str(find_config(flags.task))]
    if flags.data is not None:
        _check_data(flags.data, flags.task)
        args += ["--data.path", flags.data]
    if flags.task == "codec":
        if flags.data is None:
            args += ["--data.crop", str(SAMPLE_SIDE)]
        return args + _codec_to_train(flags.codec, flags.bpp) + rest
    if _reads_originals(rest):
        if flags.codec or flags.bpp:
            raise ValueError("input original reads no codec: leave out --codec and --bpp")
        return args + rest
    return args + _codec_to_read(flags.codec, flags.bpp, flags.data) + rest


def main(argv: list[str]) -> int:
    """Train and return the exit status."""
    args = expand(argv)
    from cdinfer.cli import lightning

    return lightning.main(["fit", *args], "train")


def _check_data(data: str, task: str) -> None:
    """Refuse at once what no task can read; the pictures themselves are looked at later."""
    path = Path(data)
    if task == "codec" and _holds_latents(data):
        raise ValueError(f"'{data}' holds latents: a codec is trained on a folder of pictures")
    if not is_url(data) and (not path.is_dir() or not any(path.iterdir())):
        find_pictures(path)


def _codec_to_train(codec: str | None, bpp: float | None) -> list[str]:
    from cdinfer.codecs.cae import latent_channels

    if codec is not None and codec not in CODECS:
        close = difflib.get_close_matches(codec, CODECS, 1) or list(CODECS)
        raise ValueError(f"unknown --codec '{codec}' to train; use --codec {close[0]}")
    args = [] if codec is None else ["--model.codec.design", codec]
    if bpp is not None:
        latent_channels(bpp)
        args += ["--model.codec.bpp", str(bpp)]
    return args


def _codec_to_read(codec: str | None, bpp: float | None, data: str | None) -> list[str]:
    """Check the codec before Lightning is imported, and name it for the task."""
    if data is not None and _holds_latents(data):
        own = load_codec(data)
        if bpp is not None and bpp != own.bpp:
            raise ValueError(f"the shards in {data} are at {own.bpp} bpp: give --bpp {own.bpp}")
        if codec is not None and load_codec(codec, own.bpp).stream != own.stream:
            raise ValueError(f"the shards in {data} were written by another codec: drop --codec")
        return ["--model.codec", data]
    name = "cae" if codec is None else codec
    found = load_codec(name, bpp)
    return ["--model.codec", name, "--model.bpp", str(found.bpp)]


def _holds_latents(data: str) -> bool:
    """Tell whether ``data`` is a set: only those are read from elsewhere."""
    return is_url(data) or is_shards(Path(data))


def _reads_originals(rest: list[str]) -> bool:
    """Tell whether the last word that options and configs have on the network's input is that."""
    said = None
    for flag, value in options(rest):
        if flag in FLAGS and Path(value).is_file():
            model = read_config(Path(value)).get("model")
            settings = model.get("init_args") if isinstance(model, dict) else None
            said = settings.get("input", said) if isinstance(settings, dict) else said
        elif flag.replace(".init_args", "") == "--model.input":
            said = value
    return said == "original"
