"""What comes with a picture, EXIF and colour profile: its file -> ``.cdi`` fields -> another file.

kind  field  content                             left out, with a note, if it is
exif  EXIF   Exif block from its TIFF header on  damaged, or longer than ``MOST`` bytes
icc   ICCP   ICC profile                         not one of RGB colours (all pictures are stored
                                                 as RGB), or longer than ``MOST`` bytes

Pictures are stored upright, so the orientation in what is kept says so. Blocks stay byte for byte
what they were but for that; only TIFF files have none, and their descriptive tags are written anew.
"""

import io
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from cdinfer.data.images import open_image, pillow

#: What may be kept -> the tag of its field.
KINDS = {"exif": "EXIF", "icc": "ICCP"}

#: Longest block that is kept, in bytes; JPEG holds 64 kB of EXIF, large profiles have 3 MB.
MOST = 2**22

#: Tag of a field -> what ``Image.save`` calls it.
_OPTIONS = {"EXIF": "exif", "ICCP": "icc_profile"}

Fields = tuple[tuple[str, bytes], ...]

_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

#: TIFF tags that say something about the picture, not about the file.
_DESCRIPTIVE = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
)


def read_fields(path: Path, kinds: Collection[str]) -> tuple[Fields, tuple[str, ...]]:
    """Return the fields to store with a picture, and a note about each that cannot be kept.

    Args:
        path: a picture that `images.read_image` takes.
        kinds: out of ``KINDS``.

    A picture without EXIF or profile gives neither field nor note.
    """
    fields, notes = [], []
    for kind in sorted(kinds):
        try:
            content = _exif(path) if kind == "exif" else _profile(path)
            if len(content) > MOST:
                raise ValueError(f"it has {len(content):,} bytes, more than {MOST:,}")
        except Exception as error:  # as many kinds as there are ways to damage a file
            reason = " ".join(str(error).split()) or type(error).__name__
            notes.append(f"its {kind.upper()} is not kept: {reason}")
        else:
            if content:
                fields.append((KINDS[kind], content))
    return tuple(fields), tuple(notes)


def save_picture(
    picture: npt.NDArray[np.uint8], kind: str, fields: Fields
) -> tuple[bytes, tuple[str, ...]]:
    """Return an ``(H, W, 3)`` picture as a file of Pillow's format ``kind``, and notes about it.

    ``PNG`` and ``TIFF`` files get the fields; if one cannot be written, the picture goes without.
    """
    known = dict(fields) if kind in ("PNG", "TIFF") else {}
    options = {name: known[tag] for tag, name in _OPTIONS.items() if tag in known}
    try:
        return _save(picture, kind, options), ()
    except MemoryError:
        raise
    except Exception as error:
        if not options:
            raise
        note = f"its EXIF and ICC are left out, they are damaged: {error}"
        return _save(picture, kind, {}), (" ".join(note.split()),)


def make_upright(exif: bytes) -> bytes:
    r"""Return an Exif block whose orientation, if it has one, says upright.

    Args:
        exif: from its TIFF header on.

    Raises:
        ValueError: if the block is damaged.

    Example:
        >>> turned = bytes.fromhex("4d4d002a 00000008 0001 0112 0003 00000001 0006 0000")
        >>> make_upright(turned)[18:20]
        b'\x00\x01'
    """
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None:
        raise ValueError("it is damaged: it does not start with a TIFF header")
    upright = bytearray(exif)
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, *_ = struct.unpack_from(f"{order}HHIHH", exif, entry)
            if tag == ExifTags.Base.Orientation:
                struct.pack_into(f"{order}HIHH", upright, entry + 2, 3, 1, 1, 0)  # one SHORT: 1
    except struct.error:
        raise ValueError("it is damaged: it ends inside its first directory") from None
    return bytes(upright)


def _exif(path: Path) -> bytes:
    with pillow(), open_image(path) as image:
        exif = image.getexif()  # PNG files may keep it at their end
        block: bytes = image.info.get("exif", b"")
        if image.format == "TIFF":
            described = Image.Exif()
            described.update({tag: exif[tag] for tag in _DESCRIPTIVE if tag in exif})
            for place in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                if part := exif.get_ifd(place):
                    described[place] = dict(part)
            block = described.tobytes() if len(described) else b""
    block = block.removeprefix(_PREFIX)
    return make_upright(block) if block else b""


def _profile(path: Path) -> bytes:
    with pillow(), open_image(path) as image:
        profile: bytes = image.info.get("icc_profile") or b""
    space = profile[16:20]
    if profile and space != b"RGB ":
        name = space.decode("latin-1").strip()
        raise ValueError(f"it is for {name!r} colours, and the picture is stored as RGB")
    return profile


def _save(picture: npt.NDArray[np.uint8], kind: str, options: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with pillow():
        Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()
