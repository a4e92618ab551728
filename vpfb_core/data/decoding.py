"""Decoding of one image file to 8 bits, grey or colour, upright, over white; or the reason why it cannot be decoded.

Files may come from anywhere: an image's size is checked before its pixels are allocated, only formats that Pillow
decodes itself are tried (EPS would start Ghostscript), and no global setting of Pillow is changed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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


class UnreadableError(Exception):
    """One image cannot be read; the message is the reason in a few words. It never leaves this package."""


@dataclass(frozen=True)
class Header:
    """shape: (width, height) in pixels as stored; grey: whether the stored format can only hold grey."""

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
        size: the side that is needed; a JPEG is decoded at the smallest eighth of its size that is twice that or more.
    Raises:
        UnreadableError: the file is not an image, damaged, truncated, or claims more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # None keeps the mode
        image.load()
        _set_upright(image)
        return eight_bit(image)


def eight_bit(image: Image.Image) -> Image.Image:
    """A loaded image in mode L or RGB: 16 bits scaled to 8, palette looked up, transparency laid over white.

    Raises:
        UnreadableError: the values have no known scale.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_narrow(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


@contextlib.contextmanager
def warnings_silenced() -> Iterator[None]:
    """Suppress Pillow's warnings about odd files (bombs, broken EXIF). To be entered in the main thread only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _narrow(values: np.ndarray) -> np.ndarray:
    """Integers in [0, 65535] or floats in [0, 1] → uint8, rounded."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise UnreadableError("floating-point values outside [0, 1]")
        return np.rint(values * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise UnreadableError("32-bit values outside the 16-bit range")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _set_upright(image: Image.Image) -> None:
    """Turn a loaded image as its EXIF orientation says; Pillow has already done so with a TIFF."""
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
    """The file as Pillow opens it, with its claimed size checked; every exception becomes an `UnreadableError`."""
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
