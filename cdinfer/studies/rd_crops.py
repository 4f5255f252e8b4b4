"""What the bytes look like: crops of the same place, every codec at the same number of bytes.

    original | ours, B bytes | other learned codecs, nearest to B | standard codecs, at most B

The reference is the first learned codec of the study (without one, its first curve) at up to
three of its rates, on its worst, its median and its best picture. Standard codecs are not tied
to the grid here: their level is the one whose file fills B best. The crop is where the original
has most detail. Its pixels are stored losslessly.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cdinfer.codecs.classical import STANDARDS, ClassicalCodec, compress_within
from cdinfer.data.images import find_images, from_tensor, read_image, to_tensor
from cdinfer.metrics import ms_ssim, psnr, round_to_8_bits
from cdinfer.studies.rd import finite, label
from cdinfer.studies.rd_points import Point
from cdinfer.studies.records import Records, Row

#: Side of a crop in pixels, and the pixels between the places it may be at.
CROP, STEP = 224, 16

#: Most rates of the reference that are shown.
RATES = 3


class Comparison(NamedTuple):
    """One picture at one number of bytes.

    Attributes:
        picture: path below the folder.
        num_bytes: of the reference.
        bpp: of the reference.
        views: ``codec, setting, bytes, psnr, ms_ssim, image`` of each crop, the original first;
            ``image`` is a lossless WebP file in base64, or null where ``setting`` tells why.
    """

    picture: str
    num_bytes: int
    bpp: float
    views: list[Row]


class Place(NamedTuple):
    """A picture and where it is cropped."""

    x: Tensor
    sha256: str
    top: int
    left: int

    def crop(self, x_hat: Tensor) -> Tensor:
        """Return the crop ``(3, h, w)`` of a picture of the same size."""
        return x_hat[0, :, self.top : self.top + CROP, self.left : self.left + CROP]


def compare(
    folder: Path,
    rows: Sequence[Row],
    points: Sequence[Point],
    records: Path,
    progress: Callable[[str], None] = lambda title: None,
) -> list[Comparison]:
    """Return the crops of a study, picture by picture, each from few bytes to many.

    Args:
        folder: the pictures.
        rows: what ``rd.run`` returned for them.
        points: what it was given.
        records: as there.
        progress: called after each comparison.
    """
    measured = {(row["codec"], row["setting"], row["picture"]): row for row in rows}
    chosen = _references(points, measured)
    paths = {label(path, folder): path for path in find_images(folder)}
    comparisons = []
    with torch.inference_mode():
        for picture in _pictures(chosen, rows):
            place = _place(paths[picture])
            for point in chosen:
                row = measured.get((point.curve, point.setting, picture))
                if row is not None:
                    others = _nearest(point, points, measured, picture)
                    views = [_original(place, row)]
                    views += [_own(records, place, other) for other in [point, *others]]
                    for name in _standards(points, besides=point.curve):
                        views.append(_standard(records, place, name, row["bytes"]))
                    comparisons.append(Comparison(picture, row["bytes"], row["bpp"], views))
                progress("crops")
    return comparisons


def _references(points: Sequence[Point], measured: dict[Any, Row]) -> list[Point]:
    """Return up to ``RATES`` points of the reference, evenly among those measured."""
    seen = {(codec, setting) for codec, setting, _ in measured}
    usable = [p for p in points if (p.curve, p.setting) in seen and p.codec is not None]
    first = next((p.curve for p in usable if p.learned), usable[0].curve if usable else "")
    curve = [point for point in usable if point.curve == first]
    if len(curve) <= RATES:
        return curve
    return [curve[round(i * (len(curve) - 1) / (RATES - 1))] for i in range(RATES)]


def _pictures(chosen: Sequence[Point], rows: Sequence[Row]) -> list[str]:
    """Return the worst, median and best picture at the middle one of the chosen points."""
    if not chosen:
        return []
    point = chosen[len(chosen) // 2]
    here = [row for row in rows if (row["codec"], row["setting"]) == (point.curve, point.setting)]
    quality = "psnr" if any(row["ms_ssim"] is None for row in here) else "ms_ssim"
    here.sort(key=lambda row: float("inf") if row[quality] is None else row[quality])
    return list(dict.fromkeys(here[i]["picture"] for i in (0, len(here) // 2, -1)))


def _place(path: Path) -> Place:
    x = to_tensor(read_image(path)).unsqueeze(0)
    size = [min(CROP, side) for side in x.shape[-2:]]
    grey = x.mean(1, keepdim=True)
    change = F.pad(grey.diff(dim=-1).abs(), (0, 1)) + F.pad(grey.diff(dim=-2).abs(), (0, 0, 0, 1))
    detail = F.avg_pool2d(change, size, STEP)[0, 0]
    row, column = divmod(int(detail.argmax()), detail.shape[1])
    return Place(x, hashlib.sha256(path.read_bytes()).hexdigest(), STEP * row, STEP * column)


def _nearest(
    reference: Point, points: Sequence[Point], measured: dict[Any, Row], picture: str
) -> list[Point]:
    """Return the point nearest in bytes of every other learned curve."""
    target = measured[reference.curve, reference.setting, picture]["bytes"]
    nearest: dict[str, tuple[int, Point]] = {}
    for point in points:
        row = measured.get((point.curve, point.setting, picture))
        if point.learned and point.curve != reference.curve and row is not None:
            far = abs(row["bytes"] - target)
            if point.curve not in nearest or far < nearest[point.curve][0]:
                nearest[point.curve] = far, point
    return [point for _, point in nearest.values()]


def _standards(points: Sequence[Point], besides: str) -> list[str]:
    names = dict.fromkeys(p.curve for p in points if p.curve in STANDARDS)
    return [name for name in names if name != besides]


def _original(place: Place, row: Row) -> Row:
    about = {"codec": "original", "setting": None, "bytes": row["source_bytes"]}
    return about | {"psnr": None, "ms_ssim": None, "image": _store(place.crop(place.x))}


def _own(records: Path, place: Place, point: Point) -> Row:
    """Return the view of a point, made now or before."""
    assert point.codec is not None
    store = Records(records, f"crop {point.curve} {point.setting}", {"crop": point.settings})
    key = f"{place.sha256} {place.top} {place.left}"
    row = store.get(key)
    if row is None:
        (file,) = point.codec.compress(place.x)
        row = _view(place, point.codec.decompress([file]), point.setting, len(file))
        store.add(key, row)
    return {"codec": point.curve, **row}


def _standard(records: Path, place: Place, name: str, num_bytes: int) -> Row:
    """Return the view of a standard codec in at most ``num_bytes``, made now or before."""
    options = ClassicalCodec(name, STANDARDS[name].levels[0]).options
    store = Records(records, f"crop {name}", {"crop": {"codec": name, **options}})
    key = f"{place.sha256} {place.top} {place.left} {num_bytes}"
    row = store.get(key)
    if row is None:
        row = _fill(place, name, num_bytes)
        store.add(key, row)
    return {"codec": name, **row}


def _fill(place: Place, name: str, num_bytes: int) -> Row:
    nothing = {"psnr": None, "ms_ssim": None, "image": None}
    try:
        best = compress_within(name, place.x, num_bytes)
        if best is None:
            codec = ClassicalCodec(name, STANDARDS[name].levels[0])
            (file,) = codec.compress(place.x)
            return {"setting": "needs more bytes than that", "bytes": len(file), **nothing}
        codec, file = best
        return _view(place, codec.decompress([file]), codec.setting, len(file))
    except ValueError as error:
        return {"setting": str(error), "bytes": None, **nothing}


def _view(place: Place, x_hat: Tensor, setting: str, num_bytes: int) -> Row:
    x_hat = round_to_8_bits(x_hat)
    return {
        "setting": setting,
        "bytes": num_bytes,
        "psnr": finite(psnr(x_hat, place.x)),
        "ms_ssim": finite(ms_ssim(x_hat, place.x)),
        "image": _store(place.crop(x_hat)),
    }


def _store(x: Tensor) -> str:
    """Return ``(3, h, w)`` as a lossless WebP file in base64."""
    file = io.BytesIO()
    Image.fromarray(from_tensor(x)).save(file, "WEBP", lossless=True, exact=True)
    return base64.b64encode(file.getvalue()).decode()
