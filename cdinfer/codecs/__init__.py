"""IMAGE <-> LATENTS <-> BYTES: the codecs and where trained ones are found."""

from cdinfer.codecs.base import Codec, LatentCodec, Latents
from cdinfer.codecs.cae import CAE
from cdinfer.codecs.stored import freeze, read_codec, save_codec
from cdinfer.codecs.zoo import load_codec, shipped_codecs

__all__ = [
    "CAE",
    "Codec",
    "LatentCodec",
    "Latents",
    "freeze",
    "load_codec",
    "read_codec",
    "save_codec",
    "shipped_codecs",
]
