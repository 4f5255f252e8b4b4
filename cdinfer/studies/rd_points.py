"""What ``cdinfer study rd`` compares: codecs, each at the settings of its curve.

jpeg jpeg-444 jpeg2000 webp avif jxl    at the grid of ``cdinfer.codecs.classical``
jxl-transcode                           JPEG sources alone: the file itself, losslessly
cae, ...                                at every rate shipped, and at others under runs/
FOLDER                                  a run or codec: one point; or a folder of codec
                                        folders, as the shipped ones are: a curve a name
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cdinfer.codecs import Codec, load_codec
from cdinfer.codecs.classical import STANDARDS, ClassicalCodec
from cdinfer.codecs.stored import CODECS
from cdinfer.codecs.zoo import shipped_codecs
from cdinfer.data.layout import suggest

#: The name of the lossless JPEG XL transcode of JPEG sources.
TRANSCODE = "jxl-transcode"

#: Files of the package that decide what a learned codec does, besides its folder.
CODE = ("bitstream/*.py", "codecs/*.py")
NOT_CODE = ("classical", "stored", "zoo")


class Point(NamedTuple):
    """A codec at one setting.

    Attributes:
        curve: name of the curve that it belongs to.
        setting: its place on the curve, as people write it.
        settings: all that decides bytes and pictures; plain JSON values.
        codec: what is measured; ``None`` for the transcode of JPEG sources.
        learned: whether it is one of ours.
    """

    curve: str
    setting: str
    settings: dict[str, Any]
    codec: Codec | None
    learned: bool


def default_names() -> list[str]:
    """Return the standard codecs and the names of all shipped ones."""
    ours = dict.fromkeys(_name(folder) for folder in shipped_codecs())
    return [*STANDARDS, TRANSCODE, *ours]


def find_points(names: Sequence[str]) -> list[Point]:
    """Return the points of codecs given by name or folder, lowest rate of each first.

    Raises:
        ValueError: if a codec is unknown, not trained or damaged.
    """
    points: list[Point] = []
    for name in dict.fromkeys(names):
        if name in STANDARDS:
            points += [_classical(name, level) for level in STANDARDS[name].grid]
        elif name == TRANSCODE:
            settings = ClassicalCodec("jxl", 1.0).options
            libraries = {"libraries": settings["libraries"]}
            points.append(Point(TRANSCODE, "lossless", libraries, None, learned=False))
        elif name in CODECS:
            points += _by_rate([_learned(name, folder) for folder in _trained(name)])
        elif Path(name).is_dir():
            points += _in_folder(Path(name))
        else:
            known = [*STANDARDS, TRANSCODE, *CODECS]
            hint = suggest(name, known) or f"; known: {', '.join(known)}"
            raise ValueError(f"no codec '{name}'{hint} (a codec of your own: give its folder)")
    return points


def _classical(name: str, level: float) -> Point:
    codec = ClassicalCodec(name, level)
    return Point(name, codec.setting, {"codec": name, **codec.options}, codec, learned=False)


def _learned(curve: str, folder: Path) -> Point:
    codec = load_codec(str(folder))
    curve = curve.encode("utf-8", "backslashreplace").decode()
    settings = {
        "codec": codec.name,
        "bpp": codec.bpp,
        "stream": f"{codec.stream:08x}",
        "folder": _digest(sorted(path for path in folder.iterdir() if path.is_file())),
        "code": _digest(_code()),
        "torch": torch.__version__,
    }
    return Point(curve, f"{codec.bpp:g} bpp", settings, codec, learned=True)


def _trained(name: str) -> list[Path]:
    """Return the folders of a codec's rates: shipped, then the newest of others under runs/."""
    found: dict[float, Path] = {}
    runs = [path.parent for path in Path("runs").glob("*/*/codec/codec.json")]
    runs.sort(key=lambda folder: (folder / "codec.json").stat().st_mtime, reverse=True)
    for folder in [*shipped_codecs(), *runs]:
        if _name(folder) == name:
            found.setdefault(load_codec(str(folder)).bpp, folder)
    if not found:
        raise ValueError(
            f"no trained {name}, neither shipped nor under runs/: run cdinfer train --task codec, "
            "or give the folder of a codec"
        )
    return list(found.values())


def _in_folder(path: Path) -> list[Point]:
    """Return the point of a run or codec, or the points of the codecs that ``path`` holds."""
    below = sorted(file.parent for file in path.glob("*/codec.json") if file.parent.name != "codec")
    if not below:
        from cdinfer.codecs.zoo import find_codec_folder

        return [_learned(str(path), find_codec_folder(path))]
    return _by_rate([_learned(f"{path} {_name(folder)}", folder) for folder in below])


def _by_rate(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda point: (point.curve, point.settings["bpp"]))


def _name(folder: Path) -> str:
    """Return the name in ``codec.json``, or nothing where it cannot be read."""
    try:
        return str(json.loads((folder / "codec.json").read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _code() -> list[Path]:
    package = Path(__file__).parents[1]
    files = [path for pattern in CODE for path in package.glob(pattern)]
    return sorted(path for path in files if path.stem not in NOT_CODE)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]
