"""Where trained codecs are found: shipped ones, runs, sets, and what lies at a URL.

Shipped codecs lie in ``codecs/weights/NAME-RATE``; ``stored.py`` says what a folder holds.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

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
from cdinfer.codecs.cae import latent_channels
from cdinfer.codecs.stored import (
    CODECS,
    FILES,
    MAX_BYTES,
    MAX_META,
    check_meta,
    read_codec,
    read_meta,
)

SHIPPED = Path(__file__).parent / "weights"


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
        own = read_meta(folder)["bpp"]
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
            meta = read_meta(folder)
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
            if read_meta(folder)["stream"] == own:
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
    meta = check_meta(text, f"{shown(url)}/codec/codec.json")
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


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    """Sort by the time ``codec.json`` was written; folders without one go."""
    files = [folder / "codec.json" for folder in folders]
    files = [file for file in files if file.is_file()]
    return [file.parent for file in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True)]
