"""One image file in the shape of a model, a mask of its known pixels, and the weights that an image file gives them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpfb_core.data.decoding import UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.data.framing import square
from vpfb_core.data.stacking import write_picture
from vpfb_core.errors import DataError

WHITE = 128  # the first grey level that counts as white


def read_image(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An image file in the shape (C, S, S) of a model, uint8: its centre square, resized.

    Raises:
        DataError: the file does not exist, or is not an image that can be read.
    """
    picture = _read(path, shape[-1])
    _say_what_is_dropped(path, picture, shape)
    return _framed(picture, shape)


def read_known(image: Path, mask: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An image as from `read_image`, and its known pixels, bool (1, S, S), which are those where the mask is white.

    The mask must have the size of the image file and is cropped and resized like it. Grey levels from `WHITE` on then
    count as white.

    Raises:
        DataError: a file cannot be read, or the mask has another size, or counts as all white or all black.
    """
    pixels = read_image(image, shape)
    size, mask_picture = _read(image).size, _read(mask)
    if mask_picture.size != size:
        raise DataError(
            f"the mask '{mask}' has {_by(mask_picture.size)} pixels, but '{image}' has {_by(size)}",
            hint="the mask must have the same size: white where the image is known, black where it is filled in",
        )
    levels = _framed(mask_picture, (1, *shape[1:]))
    known, found = levels >= WHITE, f"its grey levels are {levels.min()} to {levels.max()}, and white begins at {WHITE}"
    if known.all():
        raise DataError(
            f"the mask '{mask}' counts as white everywhere, so nothing is left to fill in: {found}",
            hint="paint it black where the image is to be filled in",
        )
    if not known.any():
        raise DataError(
            f"the mask '{mask}' counts as black everywhere, so nothing of '{image}' is known: {found}",
            hint="paint it white where the image is known; to draw whole images, omit `known` and `mask`",
        )
    return pixels, known


def read_weights(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The grey levels of an image file of the size of a model's images as weights that sum to 1, float64 (C, H, W).

    A colour file weighs the channels of a colour model separately.

    Raises:
        DataError: the file cannot be read, has another size, or is black everywhere.
    """
    picture = _read(path)
    wanted = (shape[-1], shape[-2])
    if picture.size != wanted:
        raise DataError(
            f"the mask '{path}' has {_by(picture.size)} pixels, but the images of the model have {_by(wanted)}",
            hint="the mask must have the size of the samples: white where pixels count, black where they do not",
        )
    levels = np.empty(shape, np.uint8)
    write_picture(picture, levels)
    if not levels.any():
        raise DataError(
            f"the mask '{path}' is black everywhere, so no pixel counts", hint="paint it white where pixels count"
        )
    weights = torch.from_numpy(levels).double()
    return weights / weights.sum()


def _read(path: Path, size: int | None = None) -> Image.Image:
    """The image, upright, L or RGB, in full size, or, if a size is given, in no larger size than that one needs."""
    if not path.exists():
        raise DataError(f"no image '{path}'", hint="check its spelling; a relative path starts at the current folder")
    if not path.is_file():
        raise DataError(f"'{path}' is {'a folder' if path.is_dir() else 'no file'}, not an image")
    try:
        with warnings_silenced():
            return read_picture(path, max(read_header(path).shape) if size is None else size)
    except UnreadableError as error:
        raise DataError(f"the image '{path}' cannot be read: {error}") from error


def _say_what_is_dropped(path: Path, picture: Image.Image, shape: tuple[int, ...]) -> None:
    if shape[0] == 1 and write_picture(picture, np.empty((1, *picture.size[::-1]), np.uint8)):
        warnings.warn(f"'{path}' is in colour, which is dropped: the model is grey", stacklevel=3)


def _framed(picture: Image.Image, shape: tuple[int, ...]) -> Tensor:
    pixels = np.empty(shape, np.uint8)
    write_picture(square(picture, shape[-1]), pixels)
    return torch.from_numpy(pixels)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
