"""One image file, and a mask that says which of its pixels are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpfb_core.data.decoding import UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.data.framing import square
from vpfb_core.data.stacking import write_picture
from vpfb_core.errors import DataError

WHITE = 128  # grey levels from here on are white


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """An image file as a model of `shape` (C, S, S) sees it: the centre square, resized; uint8 (C, S, S).

    Raises:
        DataError: no such file, or not an image that can be read.
    """
    return _framed(_read(path, shape[-1]), shape)


def read_known(image: Path, mask: Path, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """An image as `read_image`, and which of its pixels are known: where the mask is white, bool (1, S, S).

    The mask is a picture of the size of the image's file, and is brought to the model's size as the image is; whatever
    is at least half white then counts as white.

    Raises:
        DataError: a file that cannot be read, a mask of another size, or one that keeps all pixels or none.
    """
    pixels = read_image(image, shape)
    size, mask_picture = _read(image).size, _read(mask)
    if mask_picture.size != size:
        raise DataError(
            f"the mask '{mask}' has {_by(mask_picture.size)} pixels, but '{image}' has {_by(size)}",
            hint="a mask is a picture of the same size: white where the image is known, black where it is filled in",
        )
    known = _framed(mask_picture, (1, *shape[1:])) >= WHITE
    if known.all():
        raise DataError(f"the mask '{mask}' is white everywhere, so nothing is left to fill in", hint="paint it black")
    if not known.any():
        raise DataError(
            f"the mask '{mask}' is black everywhere, so nothing of '{image}' is known",
            hint="white keeps a pixel; to draw whole pictures leave --known and --mask out",
        )
    return pixels, known


def _read(path: Path, size: int | None = None) -> Image.Image:
    """The picture, upright, L or RGB; whole, or, where a size is given, no larger than that size needs."""
    if not path.exists():
        raise DataError(f"no image '{path}'", hint="check its spelling; a relative path starts at the current folder")
    if not path.is_file():
        raise DataError(f"'{path}' is {'a folder' if path.is_dir() else 'no file'}, not an image")
    try:
        with warnings_silenced():
            return read_picture(path, max(read_header(path).shape) if size is None else size)
    except UnreadableError as error:
        raise DataError(f"the image '{path}' cannot be read: {error}") from error


def _framed(picture: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    pixels = np.empty(shape, np.uint8)
    write_picture(square(picture, shape[-1]), pixels)
    return torch.from_numpy(pixels)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
