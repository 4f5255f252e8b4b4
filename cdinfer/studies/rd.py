"""How many bytes buy how much quality: codecs on a folder of pictures.

    picture --compress--> bytes --decompress--> x_hat --8 bits--> PSNR, SSIM, MS-SSIM
              (timed)               (timed)

field               of a picture's row
codec, setting      the point that was measured
picture             path below the folder
height, width       in pixels, upright
source_bytes        size of the picture's own file
bytes, bpp          size of the coded file, headers and all; 8 * bytes / (height * width)
psnr                of RGB, in dB, peak 255; null if the picture came back exactly
ssim, ms_ssim       of RGB in [0, 1] (data range 1), mean over channels; null where a side is too
                    short (11 and 176 pixels)
encode_ms           from a float tensor in memory to a file in memory, one thread, one call
decode_ms           and back

Every picture is its own batch. Rows are recorded as they are measured (``records.py``), keyed by
the SHA-256 of the picture's file, and never measured twice while picture and codec stay.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cdinfer.codecs import Codec
from cdinfer.codecs.classical import restore_jpeg, transcode_jpeg
from cdinfer.data.images import find_images, read_image, to_tensor
from cdinfer.metrics import ms_ssim, psnr, round_to_8_bits, ssim
from cdinfer.studies.clock import one_thread
from cdinfer.studies.rd_points import Point
from cdinfer.studies.records import Records, Row

#: Called with a picture and, after it failed under a codec, the reason.
OnFailure = Callable[[Path, str], None]

JPEG_START = b"\xff\xd8\xff"


class Trip(NamedTuple):
    """One picture there and back.

    Attributes:
        num_bytes: of the coded file.
        x_hat: ``(1, 3, H, W)`` picture in [0, 1] that came back.
        encode_ms: time to encode.
        decode_ms: time to decode.
    """

    num_bytes: int
    x_hat: Tensor
    encode_ms: float
    decode_ms: float


def run(
    folder: Path,
    points: Sequence[Point],
    records: Path,
    progress: Callable[[str], None] = lambda title: None,
    failed: OnFailure = lambda path, reason: None,
) -> list[Row]:
    """Measure every point on every picture below ``folder`` and return the rows, point by point.

    Args:
        folder: of pictures, at any depth.
        points: what to measure.
        records: folder of what was measured before; made if missing.
        progress: called after each picture of each point, with the point's title.
        failed: called for a picture that cannot be read, once, and is left out; and for one that
            a codec refuses, which is left out of that point.

    Raises:
        ValueError: if there are no pictures in the folder.
        OSError: if a record cannot be written.
    """
    paths = find_images(folder)
    if not paths:
        raise ValueError(f"no pictures in '{folder}': expected PNG, JPEG, WebP, ... files there")
    unreadable: set[Path] = set()
    rows: list[Row] = []
    with torch.inference_mode():
        for point in points:
            title = f"{point.curve} {point.setting}"
            store = Records(records, title, point.settings)
            for path in paths:
                if path not in unreadable:
                    try:
                        row = _recorded(store, point, path)
                    except PictureError as error:
                        unreadable.add(path)
                        failed(path, str(error))
                    except (ValueError, MemoryError, RuntimeError) as error:
                        failed(path, f"{title}: {_explain(error)}")
                    else:
                        if row is not None:
                            about = {"codec": point.curve, "setting": point.setting}
                            rows.append({**about, "picture": label(path, folder), **row})
                progress(title)
    return rows


def label(path: Path, folder: Path) -> str:
    r"""Return a picture's name in rows: its path below the folder, as text that can be written.

    Example:
        >>> label(Path("photos/a/caf\udce9.png"), Path("photos"))
        'a/caf\\udce9.png'
    """
    return str(path.relative_to(folder)).encode("utf-8", "backslashreplace").decode()


class PictureError(ValueError):
    """A picture that no codec will get to see."""


def _recorded(store: Records, point: Point, path: Path) -> Row | None:
    """Return the row of a picture, measured now or before; ``None`` if it is not for the point."""
    try:
        source = path.read_bytes()
        key = hashlib.sha256(source).hexdigest()
        if point.codec is None and not source.startswith(JPEG_START):
            return None
        row = store.get(key)
        if row is None:
            x = to_tensor(read_image(path)).unsqueeze(0)
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError(reason.removeprefix(f"{path}: ")) from error
    if row is None:
        row = {"source_bytes": len(source), **measure(point.codec, source, x)}
        store.add(key, row)
    return row


def _explain(error: Exception) -> str:
    """Return one line, or raise ``error`` if it is neither the picture's nor the machine's."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "not enough memory for a picture of this size"
    if isinstance(error, RuntimeError):
        raise error
    return str(error)


def measure(codec: Codec | None, source: bytes, x: Tensor) -> Row:
    """Return a picture's row from ``height`` on.

    Args:
        codec: what to measure; ``None`` for the transcode of the JPEG file ``source``.
        source: the picture's own file.
        x: the picture, ``(1, 3, H, W)`` in [0, 1].

    Raises:
        ValueError: if the codec refuses the picture.
    """
    height, width = x.shape[-2:]
    with one_thread():
        trip = transcode(source, x) if codec is None else round_trip(codec, x)
    if trip.x_hat.shape != x.shape or not bool(trip.x_hat.isfinite().all()):
        raise ValueError(f"no finite picture of {width} x {height} pixels came back")
    x_hat = round_to_8_bits(trip.x_hat)
    return {
        "height": height,
        "width": width,
        "bytes": trip.num_bytes,
        "bpp": 8 * trip.num_bytes / (height * width),
        "psnr": finite(psnr(x_hat, x)),
        "ssim": finite(ssim(x_hat, x)),
        "ms_ssim": finite(ms_ssim(x_hat, x)),
        "encode_ms": round(trip.encode_ms, 3),
        "decode_ms": round(trip.decode_ms, 3),
    }


def round_trip(codec: Codec, x: Tensor) -> Trip:
    """Send ``x (1, 3, H, W)`` through a codec."""
    start = time.perf_counter()
    (file,) = codec.compress(x)
    middle = time.perf_counter()
    x_hat = codec.decompress([file])
    end = time.perf_counter()
    return Trip(len(file), x_hat, 1e3 * (middle - start), 1e3 * (end - middle))


def transcode(source: bytes, x: Tensor) -> Trip:
    """Send the JPEG file of the picture ``x`` through JPEG XL and check that it came back."""
    start = time.perf_counter()
    file = transcode_jpeg(source)
    middle = time.perf_counter()
    back = restore_jpeg(file)
    end = time.perf_counter()
    if back != source:
        raise ValueError("JPEG XL gave another JPEG file back")
    return Trip(len(file), x, 1e3 * (middle - start), 1e3 * (end - middle))


def finite(value: Tensor) -> float | None:
    """Return the one number of a tensor, or ``None`` for NaN and infinity: JSON has neither."""
    number = float(value)
    return number if math.isfinite(number) else None
