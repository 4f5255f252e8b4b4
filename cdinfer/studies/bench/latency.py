"""Latency: one picture after the other, in one thread.

    bytes to symbols   a whole ``.cdi`` file, checked; ideal: a copy of the symbols
    bytes to latents   the same, dequantised: what a network reads
    bytes to picture   the same, through the decoder; ideal: its network alone
    picture to bytes   the encoder and all; ideal: its network alone

Against JPEG, quality 90, of the same pictures: decoding by each decoder, encoding by Pillow and
simplejpeg.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdinfer.codecs import CAE
from cdinfer.codecs.classical import Picture
from cdinfer.codecs.stored import read_codec
from cdinfer.data.images import to_tensor
from cdinfer.studies.bench import jpeg, peers
from cdinfer.studies.bench.pictures import QUALITY, Pictures
from cdinfer.studies.bench.rows import against, timed
from cdinfer.studies.bench.timing import Progress, Work, interleave
from cdinfer.studies.records import Row

BENCH = "latency"
PICTURES = 16
CODECS = (("cae", 0.33), ("cae-lite", 0.33))

#: A JPEG encoder's name in rows -> its module.
ENCODERS = {"Pillow": "PIL", "simplejpeg": "simplejpeg"}

#: What is measured -> what bounds it.
CASES = {
    "bytes to symbols": "copy",
    "bytes to latents": "copy",
    "bytes to picture": "g_s alone",
    "picture to bytes": "g_a alone",
}


def run(pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress) -> list[Row]:
    """Return the time of each step for one picture, against JPEG.

    Args:
        pictures: all are gone through in a round.
        codecs: folders of codecs.
        rounds: how often.
        progress: called with what is being done.
    """
    rows = []
    for folder in codecs:
        codec = read_codec(folder)
        works = {**_ours(codec, pictures), **_jpegs(pictures)}
        times = interleave(works, rounds, lambda title: progress(f"{BENCH}: {title}"))
        cpu = {name: clock.cpu for name, clock in times.items()}
        for what, ideal in CASES.items():
            known = ENCODERS if what.startswith("picture") else jpeg.DECODERS
            for peer in known:
                theirs = cpu.get(f"{peer}, {'encode' if known is ENCODERS else 'decode'}")
                case = against(f"{what}, {codec.name} {codec.bpp:g}", f"JPEG, {peer}", bool(theirs))
                rows.append(timed(BENCH, case, "us/picture", cpu[what], theirs, cpu[ideal]))
    return rows


def _ours(codec: CAE, pictures: Pictures) -> dict[str, Work]:
    images = [to_tensor(pixels)[None] for pixels in pictures.pixels]
    files = [codec.compress(x) for x in images]
    symbols = [codec.unpack(file) for file in files]
    for x, planes in zip(images, symbols, strict=True):
        assert (codec.symbols(x) == planes["y"]).all(), "a file gives other symbols than it holds"
    normalised = [(x - codec.mean) / codec.std for x in images]
    latents = [codec.dequantize(planes).y for planes in symbols]
    g_a, g_s = torch.inference_mode()(codec.g_a), torch.inference_mode()(codec.g_s)
    return {
        "bytes to symbols": _each(codec.unpack, files),
        "bytes to latents": _each(lambda file: codec.dequantize(codec.unpack(file)), files),
        "bytes to picture": _each(codec.render, files),
        "picture to bytes": _each(codec.compress, images),
        "copy": _each(np.copy, [planes["y"].numpy() for planes in symbols]),
        "g_a alone": _each(g_a, normalised),
        "g_s alone": _each(g_s, latents),
    }


def _jpegs(pictures: Pictures) -> dict[str, Work]:
    files = [jpeg.encode(pixels) for pixels in pictures.pixels]
    works = {f"{n}, decode": _each(_whole(f), files) for n, f in jpeg.installed().items()}
    works["Pillow, encode"] = _each(jpeg.encode, pictures.pixels)
    if peers.find("simplejpeg"):
        works["simplejpeg, encode"] = _each(_with_simplejpeg, pictures.pixels)
    return works


def _whole(decode: Callable[[bytes], Any]) -> Callable[[bytes], object]:
    """Return a decoder that has decoded when it returns: Pillow's pictures are lazy."""
    return lambda file: jpeg.as_array(decode(file))


def _with_simplejpeg(pixels: Picture) -> bytes:
    encode = peers.find("simplejpeg").encode_jpeg
    return bytes(encode(pixels, quality=QUALITY, colorsubsampling="420"))


def _each(function: Callable[[Any], object], values: Iterable[Any]) -> Work:
    inputs = list(values)

    def work() -> None:
        for value in inputs:
            function(value)

    return Work(len(inputs), work)
