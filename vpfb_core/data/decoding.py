"""Decoding of an image file to 8 bits, grey or colour, upright, over white; or the reason why it cannot be decoded.

Files may come from unknown sources. The size of an image is checked before its pixels are allocated, and only formats
that Pillow decodes itself are tried (EPS would start Ghostscript). No global setting of Pillow is changed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
_FORMATS = {  # Pillow's name of a format → endings
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "ICO": (".ico",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "TGA": (".tga",),
}
ENDINGS = frozenset(ending for endings in _FORMATS.values() for ending in endings)
_GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF tag, and its value where 0 is white
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # TIFF tags
_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras and converters
_UNSTATED_DEPTHS = (8, 12, 16)  # where no tag says it; an image of 10 or 14 bits may as well be a dark one of 12 or 16
# What `read_picture` remarks of an image, in its `info`.
OVER_WHITE, BITS = "vpfb: laid over white", "vpfb: bits"


class UnreadableError(Exception):
    """One image cannot be read. The message is the reason in a few words. It is not raised outside this package."""


@dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
        shape: (width, height) in pixels, as stored.
        grey: whether the stored format can only contain grey.
    """

    shape: tuple[int, int]
    grey: bool


def read_header(path: Path) -> Header:
    """The header of an image file, without decoding it.

    Raises:
        UnreadableError: the file is not an image, or claims more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        return Header(image.size, image.mode in _GREY_MODES)


def read_picture(path: Path, size: int) -> Image.Image:
    """The first frame of an image file, upright, in mode L or RGB.

    Args:
        path: the file.
        size: the side that is needed. A JPEG file is decoded at the smallest eighth of its size that is at least twice
            this side.
    Raises:
        UnreadableError: the file is not an image, damaged, truncated, or claims more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # None keeps the mode
        _scale_key(image)
        image.load()
        _set_upright(image)
        return eight_bit(image)


def eight_bit(image: Image.Image) -> Image.Image:
    """A loaded image in mode L or RGB: 16 bits scaled to 8, palette colours resolved, transparency laid over white.

    Its `info` contains `OVER_WHITE` if it has transparency, and `BITS`, the number of bits of its grey levels, if it is
    stored with more than 8.

    Raises:
        UnreadableError: the values have no known scale.
    """
    if image.mode == "F":
        return Image.fromarray(_from_unit_range(np.asarray(image)))
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        flat.info[OVER_WHITE] = True
        return flat
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


@contextlib.contextmanager
def warnings_silenced() -> Iterator[None]:
    """Inside this context, Pillow's warnings about odd files are suppressed. It is for the main thread only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _from_unit_range(values: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint8, rounded."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise UnreadableError("floating-point values outside [0, 1]")
    return np.rint(values * 255).astype(np.uint8)


def _from_integers(image: Image.Image) -> Image.Image:
    """Integers in [0, 65535], with the number of bits from `_depth`, rounded to 8 bits. A key colour becomes white."""
    stored = np.asarray(image)
    if stored.min() < 0 or stored.max() > 65535:
        raise UnreadableError("32-bit values outside the 16-bit range")
    values = stored.astype(np.uint32)
    key = image.info.get("transparency")
    clear = values == key if isinstance(key, int) else np.zeros(values.shape, bool)
    tags = getattr(image, "tag_v2", {})
    bits = _depth(tags, int(values[~clear].max(initial=0)))
    full = 2**bits - 1
    grey = (values.clip(max=full) * 255 + full // 2) // full
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    grey[clear] = 255
    picture = Image.fromarray(grey.astype(np.uint8))
    picture.info[BITS] = bits
    if clear.any():
        picture.info[OVER_WHITE] = True
    return picture


def _depth(tags: Mapping[int, Any], highest: int) -> int:
    """The number of bits of grey levels that are stored with 16.

    Tags of a TIFF file determine it. Without them, values that fit into 8 or 12 bits are assumed to have that number of
    bits, since they would be black if they were scaled as 16 bits.

    Args:
        tags: the tags of a TIFF file; none for other files.
        highest: the highest value of the image.
    """
    bits = min(_number(tags, _BITS_PER_SAMPLE) or 16, _number(tags, _MAX_SAMPLE_VALUE).bit_length() or 16)
    stated = bits < 16 or _MAX_SAMPLE_VALUE in tags
    if stated and highest < 2**bits <= 2**16:
        return next(depth for depth in _DEPTHS if bits <= depth)
    return next(depth for depth in _UNSTATED_DEPTHS if highest < 2**depth)


def _number(tags: Mapping[int, Any], tag: int) -> int:
    """The largest number of a TIFF tag; 0 if it is absent or has another type."""
    value = tags.get(tag, 0)
    numbers = value if isinstance(value, tuple) else (value,)
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _scale_key(image: Image.Image) -> None:
    """Scale the key colour of a PNG file, which is stored with its bits per sample, to the 8 bits of Pillow's pixels.

    Pillow drops the low bytes of 16-bit colours, and therefore those of the key as well. Grey of 16 bits is not
    changed.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None or not (tiles := getattr(image, "tile", None)):
        return
    stored = tiles[0][3]  # as what Pillow unpacks the pixels
    if stored in ("L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = key * (85 if stored == "L;2" else 17)
    elif stored == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in key)


def _set_upright(image: Image.Image) -> None:
    """Turn a loaded image by its EXIF orientation. Pillow has already turned TIFF files."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # broken EXIF around good pixels: the image stays as it is stored
        return


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as opened by Pillow, with its claimed size checked. Every exception becomes an `UnreadableError`."""
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableError(f"claims {width}x{height} pixels, more than {MAX_PIXELS // 10**6} million")
            if width * height < 1:
                raise UnreadableError(f"claims {width}x{height} pixels")
            yield image
    except UnreadableError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise UnreadableError(_reason(error, path)) from error


def _reason(error: Exception, path: Path) -> str:
    match error:
        case PermissionError():
            return "no permission to read it"
        case FileNotFoundError():
            return "it does not exist, or the file it links to does not"
        case Image.DecompressionBombError():
            return f"claims more than {MAX_PIXELS // 10**6} million pixels"
        case MemoryError():
            return "too large for memory"
        case UnidentifiedImageError():
            return "not an image" if _size(path) else "empty file"
    words = " ".join(str(error).split())[:80]
    return "truncated" if "truncated" in words.lower() else f"damaged: {words or type(error).__name__}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed since
        return 0
