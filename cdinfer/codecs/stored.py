"""Trained codecs on disk: ``freeze`` and ``save_codec`` make them, ``read_codec`` reads them.

A folder ``codec/`` holds all that reads and writes a stream:

    encoder.safetensors   g_a, float16
    decoder.safetensors   g_s and the quantizer, float16
    tables.safetensors    the context model's integers, and the centers (C, L) in float32
    codec.json            name, rate, width, stream id, sha256 of the files, and how the codec
                          was trained (its card)

It is the same in a codec run, in a set of shards and in a run that reads the codec. Freezing goes:
cast to float16, reload, fit the context model, take the id of what is stored. Two encoders of one
stream may share decoder and tables: the field ``shares`` of one folder names the other, which lies
beside it; a copy of a codec is always whole.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.bitstream.context import ContextModel
from cdinfer.codecs.cae import CAE, Design

#: What ``--codec`` accepts besides a folder.
CODECS: tuple[str, ...] = get_args(Design)

FORMAT = 2
FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "bpp": float,
    "width": (int, float),
    "stream": str,
    "sha256": dict,
}
FILES = ("encoder.safetensors", "decoder.safetensors", "tables.safetensors")
#: Most bytes of ``codec.json``, and of each of the other files.
MAX_META = 2**24
MAX_BYTES = {FILES[0]: 2**27, FILES[1]: 2**27, FILES[2]: 2**22}

#: Parts of a context model, each a tensor of ``tables.safetensors``.
PARTS = tuple(field.name for field in fields(ContextModel))
#: Those that are not int16.
TYPES = {"sizes": torch.uint16, "zeros": torch.uint8, "frequencies": torch.uint16}

Collect = Callable[[CAE], Sequence[NDArray[np.int16]]]


def freeze(codec: CAE, collect: Collect) -> CAE:
    """Return ``codec`` as it will be stored: float16 weights, context model, centers.

    Args:
        codec: the trained codec; it is left as it is.
        collect: returns the numbers ``(C, h, w)`` of each training picture, from the codec it is
            given (weights already rounded).
    """
    frozen = CAE(codec.bpp, codec.width, codec.design)
    _load_weights(frozen, *(_store_weights(codec, encoder) for encoder in (True, False)))
    frozen.to(codec.mean.device).eval()
    frozen.fit(collect(frozen))
    assert frozen.model is not None
    frozen.set_tables(frozen.model, frozen.centers)
    return frozen


def save_codec(codec: CAE, folder: Path, card: dict[str, Any], shares: str | None = None) -> None:
    """Write a frozen codec to ``folder``, made if missing; ``codec.json`` comes last.

    Args:
        codec: a result of :func:`freeze` or :func:`read_codec`.
        folder: the folder, by convention called ``codec``.
        card: plain JSON values about the training, kept as they are.
        shares: name of a folder beside it that holds the same decoder and tables; they are not
            written again.
    """
    assert codec.frozen, "freeze the codec first"
    blobs = {
        "encoder.safetensors": _store_weights(codec, encoder=True),
        "decoder.safetensors": _store_weights(codec, encoder=False),
        "tables.safetensors": _store_tables(codec),
    }
    meta = {
        "format": FORMAT,
        "name": codec.name,
        "bpp": codec.bpp,
        "width": codec.width,
        "stream": f"{codec.stream:08x}",
        "sha256": {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()},
        "card": card,
    }
    if shares is not None:
        meta["shares"] = shares
        blobs = {"encoder.safetensors": blobs["encoder.safetensors"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        write_atomically(folder / name, blob)
    write_atomically(folder / "codec.json", json.dumps(meta, indent=1).encode())


def copy_codec(source: Path, target: Path) -> None:
    """Copy a codec's folder, whole: what it shares with another comes along."""
    meta = read_meta(source)
    blobs = {name: _read_part(source, meta, name) for name in FILES}
    meta.pop("shares", None)
    target.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        write_atomically(target / name, blob)
    write_atomically(target / "codec.json", json.dumps(meta, indent=1).encode())


def read_codec(folder: Path) -> CAE:
    """Load the codec stored in ``folder``, checking every file against its description.

    Raises:
        ValueError: if a file is missing, damaged or does not belong to the others.
    """
    meta = read_meta(folder)
    try:
        blobs = [_read_part(folder, meta, name) for name in FILES]
        for name, blob in zip(FILES, blobs, strict=True):
            if hashlib.sha256(blob).hexdigest() != meta["sha256"].get(name):
                raise ValueError(f"{name} is not the file codec.json was written for")
        codec = CAE(meta["bpp"], meta["width"], meta["name"])
        _load_weights(codec, *blobs[:2])
        _load_tables(codec, blobs[2])
        if f"{codec.stream:08x}" != meta["stream"]:
            raise ValueError(f"tables and centers give stream {codec.stream:08x}")
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())  # a hostile header may be quoted, lines and all
        raise ValueError(f"damaged codec in {folder}: {reason}; copy the folder again") from error
    return codec


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of ``codec.json``.

    Raises:
        ValueError: if it is missing or damaged.
    """
    path = folder / "codec.json"
    try:
        text = _read(path, MAX_META)
    except (OSError, ValueError) as error:
        raise ValueError(f"damaged {path}: {error}; copy the codec folder again") from error
    return check_meta(text, str(path))


def check_meta(text: bytes, path: str) -> dict[str, Any]:
    """Return what ``text``, the content of a ``codec.json`` called ``path``, says.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        meta = json.loads(text)
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        for field, kind in FIELDS.items():
            if not isinstance(meta.get(field), kind):
                raise ValueError(f"no {field}, or of the wrong type")
        if meta["name"] not in CODECS:
            raise ValueError(f"unknown codec {meta['name']!r}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged {path}: {error}; copy the codec folder again") from error
    return meta


def _read_part(folder: Path, meta: dict[str, Any], name: str) -> bytes:
    """Read a file of a codec from its folder, or from the one beside it that it names."""
    path = folder / name
    shares = meta.get("shares")
    if not path.is_file() and isinstance(shares, str):
        path = folder.parent / Path(shares).name / name
    return _read(path, MAX_BYTES[name])


def _read(path: Path, most: int) -> bytes:
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} is larger than {most} bytes")
    return path.read_bytes()


def _store_weights(codec: CAE, encoder: bool) -> bytes:
    """Return float16 weights: of the encoder, or all others.

    Those of the training prior are kept for who trains on.
    """
    weights = codec.state_dict()
    chosen = {name: w for name, w in weights.items() if name.startswith("g_a.") == encoder}
    return save_tensors({k: w.detach().half().cpu().contiguous() for k, w in chosen.items()})


def _load_weights(codec: CAE, *blobs: bytes) -> None:
    """Load what :func:`_store_weights` returned."""
    weights = {name: tensor for blob in blobs for name, tensor in load_tensors(blob).items()}
    expected = {name: (torch.half, tensor.shape) for name, tensor in codec.state_dict().items()}
    if {name: (tensor.dtype, tensor.shape) for name, tensor in weights.items()} != expected:
        raise ValueError("its files hold other layers than codec.json describes")
    codec.load_state_dict(weights)


def _store_tables(codec: CAE) -> bytes:
    """Return context model and centers."""
    assert codec.model is not None
    parts = {name: torch.from_numpy(getattr(codec.model, name).copy()) for name in PARTS}
    return save_tensors(parts | {"centers": codec.centers.detach().float().cpu().contiguous()})


def _load_tables(codec: CAE, blob: bytes) -> None:
    """Load what :func:`_store_tables` returned."""
    tensors: dict[str, Tensor] = load_tensors(blob)
    if set(tensors) != {*PARTS, "centers"}:
        raise ValueError("tables.safetensors holds other parts than a context model and centers")
    centers = tensors.pop("centers")
    for name, tensor in tensors.items():
        if tensor.dtype != TYPES.get(name, torch.int16) or not tensor.ndim:
            raise ValueError(f"{name} of type {tensor.dtype} and shape {tuple(tensor.shape)}")
    model = ContextModel(**{name: tensor.numpy() for name, tensor in tensors.items()})
    if centers.dtype != torch.float32 or centers.shape != (codec.channels, model.sizes.max()):
        raise ValueError(f"expected centers of {codec.channels} channels, got {centers.shape}")
    steps = centers.diff()
    used = torch.arange(1, centers.shape[1]) < torch.from_numpy(model.sizes.astype(int))[:, None]
    rising = bool((steps[used] >= 0).all() and centers.isfinite().all())
    if len(model.sizes) != codec.channels or not rising:
        raise ValueError("tables of another number of channels, or centers that do not rise")
    codec.set_tables(model, centers)
