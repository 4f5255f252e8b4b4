"""Trained codecs on disk: ``freeze`` and ``save_codec`` make them, ``load_codec`` finds them.

A folder ``codec/`` holds all that reads and writes a stream:

    encoder.safetensors   g_a, float16
    decoder.safetensors   g_s and the quantizer, float16
    tables.safetensors    the context model's integers, and the centers (C, L) in float32
    codec.json            name, rate, width, stream id, sha256 of the files, and how the codec
                          was trained (its card)

It is the same in a codec run, in a set of shards and in a run that reads the codec. Freezing goes:
cast to float16, reload, fit the context model, take the id of what is stored. Shipped codecs lie
in ``codecs/weights/NAME-RATE``. Two encoders of one stream share decoder and tables there: the
field ``shares`` of one folder names the other; a copy of a codec is always whole.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
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
from cdinfer.bitstream.remote import (
    DELAYS,
    cache_folder,
    fetch,
    is_url,
    keep,
    locate,
    sha256_of,
    shown,
)
from cdinfer.codecs.base import LatentCodec
from cdinfer.codecs.cae import CAE, Design, latent_channels

#: What ``--codec`` accepts besides a folder.
CODECS: tuple[str, ...] = get_args(Design)

SHIPPED = Path(__file__).parent / "weights"
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
    meta = _read_meta(source)
    blobs = {name: _read_part(source, meta, name) for name in FILES}
    meta.pop("shares", None)
    target.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        write_atomically(target / name, blob)
    write_atomically(target / "codec.json", json.dumps(meta, indent=1).encode())


def shipped_codecs() -> list[Path]:
    """Return the folders of the codecs that come with the package, by name and rate."""
    names = {file.parent: file.parent.name.rpartition("-") for file in SHIPPED.glob("*/codec.json")}
    return sorted(names, key=lambda folder: (names[folder][0], float(names[folder][2])))


def load_codec(name: str = "cae", bpp: float | None = None) -> LatentCodec:
    """Return a trained codec, in eval mode, without gradients.

    Args:
        name: a codec's name (``cae``), looked up among shipped codecs, then the newest frozen
            one of that rate under ``runs/``; or a folder: a run, its parent, a set of shards;
            or the URL of a run or set.
        bpp: nominal rate (0.33 for a name); for a folder it may be omitted, and is checked
            when given.

    Raises:
        ValueError: if there is no such trained codec; the message says what to type.
    """
    return read_codec(find_codec(name, bpp))


def find_codec(name: str, bpp: float | None = None) -> Path:
    """Return the folder of the trained codec that :func:`load_codec` loads.

    Raises:
        ValueError: as :func:`load_codec` does.
    """
    if name not in CODECS:
        folder = fetch_codec(name) if is_url(name) else find_codec_folder(Path(name))
        own = _read_meta(folder)["bpp"]
        if bpp is not None and own != bpp:
            raise ValueError(
                f"the codec in {name} has a nominal rate of {own} bpp, not {bpp}: "
                f"give --bpp {own}, or another --codec"
            )
        return folder
    rate = 0.330 if bpp is None else bpp
    latent_channels(rate)  # refuses an unknown rate, naming the nearest
    runs = _newest_first(Path("runs").glob("*/*/codec"))
    for folder in [SHIPPED / f"{name}-{rate:g}", *runs]:
        if (folder / "codec.json").is_file():
            meta = _read_meta(folder)
            if (meta["name"], meta["bpp"]) == (name, rate):
                return folder
    option = "" if name == CODECS[0] else f" --codec {name}"
    raise ValueError(
        f"no trained {name} at {rate} bpp: run cdinfer train --task codec{option} --bpp {rate}, "
        "or give --codec RUN"
    )


def find_stream(stream: int) -> Path:
    """Return the folder of the trained codec whose stream id is ``stream``.

    Shipped codecs come first, then the newest under ``runs/``; damaged ones are passed over.

    Raises:
        ValueError: if there is none; the message says what to type.
    """
    own = f"{stream:08x}"
    runs = Path("runs").glob("*/*/codec")
    for folder in [*_newest_first(SHIPPED.glob("*")), *_newest_first(runs)]:
        try:
            if _read_meta(folder)["stream"] == own:
                return folder
        except ValueError:
            continue
    raise ValueError(
        f"no trained codec with stream id {own}, neither shipped nor under runs/: give the one "
        "that wrote the file with --codec RUN"
    )


def find_codec_folder(path: Path) -> Path:
    """Return the folder with ``codec.json`` of a run, the parent of runs, or a set.

    Raises:
        ValueError: if there is none.
    """
    for folder in [path, path / "codec", *_newest_first(path.glob("version_*/codec"))]:
        if (folder / "codec.json").is_file():
            return folder
    near = f"a name ({', '.join(CODECS)})"
    if not path.exists():
        raise ValueError(f"no codec '{path}': expected {near}, or the folder of a run or set")
    raise ValueError(
        f"no trained codec in {path}: expected codec/codec.json there, which a finished "
        f"cdinfer train --task codec writes; or give {near}"
    )


def fetch_codec(url: str, delays: Sequence[float] = DELAYS) -> Path:
    """Bring the codec of the set or run at ``url`` into the cache and return its folder there.

    Args:
        url: see ``remote.py``.
        delays: seconds to wait before each new try of a broken connection.

    Raises:
        ValueError: if it cannot be had, is not whole, or the cache cannot be written.
    """
    text = fetch(locate(url, "codec/codec.json"), MAX_META, delays)
    meta = _check_meta(text, f"{shown(url)}/codec/codec.json")
    own = hashlib.sha256(text).hexdigest()
    folder = cache_folder() / own[:32] / "codec"
    for name in FILES:
        expected = meta["sha256"].get(name)
        if sha256_of(folder / name) != expected:
            blob = fetch(locate(url, f"codec/{name}"), MAX_BYTES[name], delays)
            if hashlib.sha256(blob).hexdigest() != expected:
                raise ValueError(
                    f"damaged codec in {shown(url)}: {name} is not the file codec.json was "
                    "written for; copy the codec folder again"
                )
            keep(folder / name, blob)
    if sha256_of(folder / "codec.json") != own:
        keep(folder / "codec.json", text)
    return folder


def read_codec(folder: Path) -> CAE:
    """Load the codec stored in ``folder``, checking every file against its description.

    Raises:
        ValueError: if a file is missing, damaged or does not belong to the others.
    """
    meta = _read_meta(folder)
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


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "codec.json"
    try:
        text = _read(path, MAX_META)
    except (OSError, ValueError) as error:
        raise ValueError(f"damaged {path}: {error}; copy the codec folder again") from error
    return _check_meta(text, str(path))


def _check_meta(text: bytes, path: str) -> dict[str, Any]:
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


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    """Sort by the time ``codec.json`` was written; folders without one go."""
    files = [folder / "codec.json" for folder in folders]
    files = [file for file in files if file.is_file()]
    return [file.parent for file in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True)]
