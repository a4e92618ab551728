"""One image file → one 8-bit picture: grey or colour, upright, laid over white; or the reason why not.

Files come from anywhere: a picture's size is checked before its pixels are allocated, only formats that Pillow decodes
itself are tried (EPS would start Ghostscript), and nothing global in Pillow is changed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
_FORMATS = {  # Pillow's name → endings
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
_ORIENTATION = 0x0112  # the EXIF tag; its values 2–8 and what sets such a picture upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(Exception):
    """One picture cannot be read; the message is the reason in a few words. Never leaves this package."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself: (width, height) in pixels as stored, and whether its format can only hold grey."""

    shape: tuple[int, int]
    grey: bool


def read_header(path: Path) -> Header:
    """The header of an image file, without decoding it.

    Raises:
        UnreadableError: not an image, or one that claims more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        return Header(image.size, image.mode in _GREY_MODES)


def read_picture(path: Path, size: int) -> Image.Image:
    """An image file's first frame, upright, of mode L or RGB.

    Args:
        size: the side wanted in the end: a JPEG is decoded at the smallest eighth that still has twice as much.
    Raises:
        UnreadableError: not an image, damaged, truncated, or one that claims more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # None keeps the mode
        image.load()
        picture = eight_bit(image)
        turn = _UPRIGHT.get(_orientation(image))
        return picture if turn is None else picture.transpose(turn)


def eight_bit(image: Image.Image) -> Image.Image:
    """Any loaded picture as mode L or RGB: 16 bits scaled to 8, palette looked up, transparency laid over white.

    Raises:
        UnreadableError: numbers that no scale is known for.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_narrow(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


@contextlib.contextmanager
def warnings_silenced() -> Iterator[None]:
    """Keeps Pillow's remarks on odd files (bombs, broken EXIF) off the terminal; enter it in the main thread only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in [0, 65535] or fractions in [0, 1] → uint8, rounded."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise UnreadableError("floating-point values outside [0, 1]")
        return np.rint(values * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise UnreadableError("32-bit values outside the 16-bit range")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded picture (Pillow has already turned a TIFF and then says 1)."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF around good pixels: as it is stored
        return 1


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow opens it, its claimed size checked; whatever goes wrong becomes an `UnreadableError`."""
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableError(f"claims {width}×{height} pixels, more than {MAX_PIXELS // 10**6} million")
            if width * height < 1:
                raise UnreadableError(f"claims {width}×{height} pixels")
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
            return "it is gone, or the file it links to is"
        case Image.DecompressionBombError():
            return f"claims more than {MAX_PIXELS // 10**6} million pixels"
        case MemoryError():
            return "too large for the memory"
        case UnidentifiedImageError():
            return "not an image" if _size(path) else "empty file"
    words = " ".join(str(error).split())[:80]
    return "truncated" if "truncated" in words.lower() else f"damaged: {words or type(error).__name__}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has gone since
        return 0
