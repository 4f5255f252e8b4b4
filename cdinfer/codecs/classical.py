"""Standard codecs behind the ``Codec`` protocol: what learned ones are measured against.

    x (B, 3, H, W) --8 bits--> (H, W, 3) uint8 --encoder--> a JPEG, WebP, ... file --> x_hat

A codec has one dial, its level. Everything else is fixed in ``STANDARDS``, and recorded with the
versions of the libraries; encoders and decoders run in one thread.

    name      encoder             level, fewest bytes first      file
    jpeg      Pillow, 4:2:0       quality 1..95                  JFIF, optimised Huffman tables
    jpeg-444  Pillow, 4:4:4       quality 1..95                  JFIF, optimised Huffman tables
    jpeg2000  Pillow (OpenJPEG)   bits per pixel to fill         codestream: no boxes to pay for
    webp      Pillow (libwebp)    quality 0..100                 lossy, method 6 of 0..6
    avif      imagecodecs (AOM)   quality 0..100                 4:2:0, speed 6 of 0..10
    jxl       imagecodecs (libjxl) Butteraugli distance 19..0.1  lossy codestream, effort 7 of 1..9

Pillow leaves JPEG 2000's colour transform out unless asked (``mct``), at a cost of 2.6 dB at 0.33
bits per pixel. The distance of JPEG XL is what its encoder aims at, not one measured afterwards;
from 20 on libjxl halves the picture first, and files grow again.

``transcode_jpeg`` is of another kind: a JPEG *file* in fewer bytes, and the same file back.
"""

import difflib
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from torch import Tensor

Picture = npt.NDArray[np.uint8]


class Standard(NamedTuple):
    """A codec but for its level.

    Attributes:
        encode: ``(H, W, 3)`` picture, level and the options as keywords -> a file.
        decode: a file -> ``(H, W, 3)`` picture.
        options: what ``encode`` is given besides the level.
        levels: all levels, fewest bytes first.
        grid: the levels of a rate-distortion curve, fewest bytes first.
        setting: how a level is written, as in ``q30``.
    """

    encode: Callable[..., bytes]
    decode: Callable[[bytes], Picture]
    options: dict[str, Any]
    levels: Sequence[float]
    grid: Sequence[float]
    setting: str


def _jpeg(picture: Picture, level: float, **options: Any) -> bytes:  # noqa: ANN401
    return _pillow(picture, "JPEG", quality=level, **options)


def _jpeg2000(picture: Picture, level: float, **options: Any) -> bytes:  # noqa: ANN401
    return _pillow(picture, "JPEG2000", quality_layers=[24 / level], **options)


def _webp(picture: Picture, level: float, **options: Any) -> bytes:  # noqa: ANN401
    return _pillow(picture, "WEBP", quality=level, **options)


def _pillow(picture: Picture, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def _avif(picture: Picture, level: float, **options: Any) -> bytes:  # noqa: ANN401
    return bytes(imagecodecs.avif_encode(picture, int(level), **options))


def _jxl(picture: Picture, level: float, **options: Any) -> bytes:  # noqa: ANN401
    return bytes(imagecodecs.jpegxl_encode(picture, distance=level, **options))


def _jpeg_standard(subsampling: str) -> Standard:
    return Standard(
        _jpeg,
        imagecodecs.jpeg8_decode,
        {"subsampling": subsampling, "optimize": True, "progressive": False},
        levels=range(1, 96),
        grid=(1, 5, 10, 15, 20, 30, 45, 65, 85),
        setting="q{:g}",
    )


STANDARDS = {
    "jpeg": _jpeg_standard("4:2:0"),
    "jpeg-444": _jpeg_standard("4:4:4"),
    "jpeg2000": Standard(
        _jpeg2000,
        lambda file: imagecodecs.jpeg2k_decode(file, numthreads=1),
        {"quality_mode": "rates", "irreversible": True, "mct": 1, "no_jp2": True},
        levels=[round(0.01 * 1.02**step, 5) for step in range(380)],  # to 18 bpp
        grid=(0.06, 0.1, 0.16, 0.25, 0.4, 0.65, 1.0, 1.6),
        setting="{:g} bpp",
    ),
    "webp": Standard(
        _webp,
        imagecodecs.webp_decode,
        {"lossless": False, "method": 6},
        levels=range(101),
        grid=(0, 1, 5, 15, 30, 50, 75, 90),
        setting="q{:g}",
    ),
    "avif": Standard(
        _avif,
        lambda file: imagecodecs.avif_decode(file, numthreads=1),
        {"codec": "aom", "pixelformat": "420", "speed": 6, "numthreads": 1},
        levels=range(101),
        grid=(0, 10, 20, 30, 40, 50, 60, 75),
        setting="q{:g}",
    ),
    "jxl": Standard(
        _jxl,
        lambda file: imagecodecs.jpegxl_decode(file, numthreads=1),
        {"effort": 7, "lossless": False, "numthreads": 1},
        levels=[tenths / 10 for tenths in range(190, 0, -1)],
        grid=(19.0, 13.0, 9.0, 6.0, 4.0, 2.5, 1.5, 1.0),
        setting="d{:g}",
    ),
}


class ClassicalCodec:
    r"""A standard codec at one level.

    Args:
        name: one of ``STANDARDS``.
        level: see the module's table.

    Raises:
        ValueError: if the name is unknown or the level out of range.

    Example:
        >>> codec = ClassicalCodec("jpeg", 30)
        >>> (file,) = codec.compress(torch.zeros(1, 3, 5, 8))
        >>> file[:2], codec.decompress([file]).shape
        (b'\xff\xd8', torch.Size([1, 3, 5, 8]))
    """

    def __init__(self, name: str, level: float) -> None:
        if name not in STANDARDS:
            (near,) = difflib.get_close_matches(name, STANDARDS, 1, 0) or ["jpeg"]
            raise ValueError(f"no standard codec '{name}'; did you mean '{near}'?")
        levels = STANDARDS[name].levels
        low, high = sorted((levels[0], levels[-1]))
        whole = isinstance(levels, range)
        if not low <= level <= high or (whole and level != int(level)):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"expected {kind} from {low} to {high} as level of {name}: {level}")
        self.name = name
        self.level = int(level) if whole else level
        self._standard = STANDARDS[name]

    @property
    def setting(self) -> str:
        """The level as people write it."""
        return self._standard.setting.format(self.level)

    @property
    def options(self) -> dict[str, Any]:
        """All that decides which bytes come out: level, fixed settings, libraries."""
        libraries = f"Pillow {PIL.__version__}, imagecodecs {imagecodecs.__version__}"
        return {"level": self.level, **self._standard.options, "libraries": libraries}

    def compress(self, x: Tensor) -> list[bytes]:
        """Encode ``(B, 3, H, W)`` images in [0, 1], rounded to 8 bits, one file each.

        Raises:
            ValueError: if the format does not hold a picture of this size.
        """
        levels = x.detach().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        return [self._encode(picture) for picture in levels.contiguous().cpu().numpy()]

    def decompress(self, data: Sequence[bytes]) -> Tensor:
        """Return the ``(B, 3, H, W)`` images in [0, 1] of files of one picture size.

        Raises:
            ValueError: if a file is damaged or another codec's.
        """
        pictures = np.stack([self._decode(file) for file in data])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 255

    def _encode(self, picture: Picture) -> bytes:
        try:
            return self._standard.encode(picture, self.level, **self._standard.options)
        except (ValueError, OSError, RuntimeError) as error:
            height, width = picture.shape[:2]
            raise ValueError(f"{self.name} refuses {width} x {height} pixels ({error})") from error

    def _decode(self, file: bytes) -> Picture:
        try:
            picture = np.asarray(self._standard.decode(file))
            if picture.dtype != np.uint8 or picture.shape[2:] != (3,):
                raise ValueError(f"{picture.dtype} pixels of shape {picture.shape}")
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(
                f"expected a whole {self.name} file of 8-bit RGB ({error}); encode it again"
            ) from error
        return picture


def compress_within(name: str, x: Tensor, num_bytes: int) -> tuple[ClassicalCodec, bytes] | None:
    """Return the codec ``name`` at the level that fills ``num_bytes`` best, and its file.

    Found by bisection, as if files grew with every level; ``None`` if the picture does not fit
    at the level of fewest bytes.

    Args:
        name: one of ``STANDARDS``.
        x: ``(1, 3, H, W)`` image in [0, 1].
        num_bytes: the most the file may have.
    """
    levels = STANDARDS[name].levels
    best = None
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        codec = ClassicalCodec(name, levels[middle])
        (file,) = codec.compress(x)
        if len(file) <= num_bytes:
            best, low = (codec, file), middle + 1
        else:
            high = middle
    return best


def transcode_jpeg(data: bytes) -> bytes:
    """Return a JPEG file as a smaller JPEG XL file that :func:`restore_jpeg` turns back.

    Raises:
        ValueError: if ``data`` is no JPEG file, or of a kind libjxl does not take (CMYK).
    """
    try:
        return bytes(imagecodecs.jpegxl_encode_jpeg(data, numthreads=1))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"JPEG XL cannot hold this as a JPEG file ({error})") from error


def restore_jpeg(data: bytes) -> bytes:
    """Return the JPEG file, bit for bit, that :func:`transcode_jpeg` was given.

    Raises:
        ValueError: if ``data`` is damaged, or no such file.
    """
    try:
        return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"no JPEG file in this JPEG XL file ({error})") from error
