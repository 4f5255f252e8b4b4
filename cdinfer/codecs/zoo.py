"""Trained codecs on disk: ``freeze`` and ``save_codec`` make them, ``load_codec`` finds them.

A folder ``codec/`` holds all that reads and writes a stream:

    weights.safetensors   encoder, decoder and centers in float16
    codec.json            name, rate, architecture, integer tables, stream id, sha256 of the
                          weights, and how the codec was trained (its card)

It is the same in a codec run, in a set of shards and in a run that reads the codec. Freezing
goes: cast to float16, reload, count symbols, build tables, take the id of what is stored.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.bitstream.tables import Tables, build_tables
from cdinfer.codecs.base import LatentCodec
from cdinfer.codecs.cae import CAE, latent_channels

#: What ``--codec`` accepts besides a folder.
CODECS: dict[str, type[CAE]] = {"cae": CAE}

SHIPPED = Path(__file__).parent / "weights"
FORMAT = 1
FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "bpp": float,
    "width": (int, float),
    "levels": int,
    "stream": str,
    "tables": list,
    "sha256": str,
}
MAX_META = 2**24


def freeze(codec: CAE, count: Callable[[CAE], Tensor]) -> CAE:
    """Return ``codec`` as it will be stored: float16 weights, sorted centers, integer tables.

    Args:
        codec: the trained codec; it is left as it is.
        count: returns the symbol counts ``(C, L)`` of the codec it is given (weights already
            rounded) over the training pictures.
    """
    frozen = type(codec)(codec.bpp, codec.width, codec.levels)
    _load_weights(frozen, _store_weights(codec))
    frozen.to(codec.centers.device).eval()
    frozen.set_tables(build_tables(count(frozen).cpu().numpy()))
    return frozen


def save_codec(codec: CAE, folder: Path, card: dict[str, Any]) -> None:
    """Write a frozen codec to ``folder``, made if missing; ``codec.json`` comes last.

    Args:
        codec: a result of :func:`freeze` or :func:`read_codec`.
        folder: the folder, by convention called ``codec``.
        card: plain JSON values about the training, kept as they are.
    """
    assert codec.tables is not None, "freeze the codec first"
    blob = _store_weights(codec)
    meta = {
        "format": FORMAT,
        "name": codec.name,
        "bpp": codec.bpp,
        "width": codec.width,
        "levels": codec.levels,
        "stream": f"{codec.stream:08x}",
        "tables": codec.tables.frequencies.tolist(),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "card": card,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "weights.safetensors", blob)
    write_atomically(folder / "codec.json", json.dumps(meta, indent=1).encode())


def load_codec(name: str = "cae", bpp: float | None = None) -> LatentCodec:
    """Return a trained codec, in eval mode, without gradients.

    Args:
        name: a codec's name (``cae``), looked up among shipped codecs, then the newest frozen
            one of that rate under ``runs/``; or a folder: a run, its parent, a set of shards.
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
        folder = find_codec_folder(Path(name))
        own = _read_meta(folder)["bpp"]
        if bpp is not None and own != bpp:
            raise ValueError(
                f"the codec in {name} has a nominal rate of {own} bpp, not {bpp}: "
                f"give --bpp {own}, or another --codec"
            )
        return folder
    rate = 0.330 if bpp is None else bpp
    latent_channels(rate)  # refuses an unknown rate, naming the nearest
    for folder in [SHIPPED / f"{name}-{rate}", *_newest_first(Path("runs").glob("*/*/codec"))]:
        if (folder / "codec.json").is_file():
            meta = _read_meta(folder)
            if (meta["name"], meta["bpp"]) == (name, rate):
                return folder
    raise ValueError(
        f"no trained {name} at {rate} bpp: run cdinfer train --task codec --bpp {rate}, "
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


def read_codec(folder: Path) -> CAE:
    """Load the codec stored in ``folder``, checking every file against its description.

    Raises:
        ValueError: if a file is missing, damaged or does not belong to the others.
    """
    meta = _read_meta(folder)
    try:
        blob = (folder / "weights.safetensors").read_bytes()
        codec = CODECS[meta["name"]](meta["bpp"], meta["width"], meta["levels"])
        if hashlib.sha256(blob).hexdigest() != meta["sha256"]:
            raise ValueError("weights.safetensors is not the file codec.json was written for")
        _load_weights(codec, blob)
        tables = Tables(np.array(meta["tables"]))
        if tables.frequencies.shape != codec.frequencies.shape:
            raise ValueError(f"expected tables of {tuple(codec.frequencies.shape)}")
        codec.set_tables(tables)
        if f"{codec.stream:08x}" != meta["stream"]:
            raise ValueError(f"tables and centers give stream {codec.stream:08x}")
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"damaged codec in {folder}: {error}; copy the folder again") from error
    return codec


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "codec.json"
    try:
        if path.stat().st_size > MAX_META:
            raise ValueError(f"larger than {MAX_META} bytes")
        meta = json.loads(path.read_bytes())
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        for field, kind in FIELDS.items():
            if not isinstance(meta.get(field), kind):
                raise ValueError(f"no {field}, or of the wrong type")
        if meta["name"] not in CODECS:
            raise ValueError(f"unknown codec {meta['name']!r}")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"damaged {path}: {error}; copy the codec folder again") from error
    return meta


def _store_weights(codec: CAE) -> bytes:
    """Return the float16 weights; the running histogram is not part of them."""
    weights = {k: v.detach().half().cpu().contiguous() for k, v in codec.state_dict().items()}
    del weights["frequencies"]
    weights["centers"] = weights["centers"].sort().values
    return save_tensors(weights)


def _load_weights(codec: CAE, blob: bytes) -> None:
    """Load what :func:`_store_weights` returned."""
    weights = {name: tensor.float() for name, tensor in load_tensors(blob).items()}
    weights["frequencies"] = codec.frequencies
    expected = {name: tensor.shape for name, tensor in codec.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise ValueError("weights.safetensors holds other layers than codec.json describes")
    codec.load_state_dict(weights)


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    """Sort by the time ``codec.json`` was written; folders without one go."""
    files = [folder / "codec.json" for folder in folders]
    files = [file for file in files if file.is_file()]
    return [file.parent for file in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True)]
