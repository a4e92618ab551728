"""Image files from tensors: grids, PNG, GIF and NumPy archives."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vpfb_core.data.own_files import KEYWORD, OURS, is_own_picture, is_sample_name
from vpfb_core.errors import ConfigError
from vpfb_core.machine.files import write_quickly

# Small images are enlarged by an integer factor to about this many pixels per side, so that a grid is easy to view.
TILE = 64
_GAP = 2


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """A grid of images on a white background.

    Args:
        images: float in [0, 1], (N, C, H, W).
        columns: the number of images per row; None makes the grid as square as possible.
    Returns:
        float (C, height, width).
    """
    count, channels, height, width = images.shape
    factor = max(1, TILE // max(height, width))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    height, width = images.shape[2:]
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = torch.ones(channels, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + _GAP) + _GAP, (index % columns) * (width + _GAP) + _GAP
        grid[:, top : top + height, left : left + width] = image
    return grid


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def png(image: Tensor) -> bytes:
    """A PNG file of an image in [0, 1], (C, H, W) with C = 1 or 3, that names vpfb as its software."""
    buffer, marks = io.BytesIO(), PngInfo()
    marks.add_text(KEYWORD, OURS)
    _to_pillow(image).save(buffer, format="PNG", pnginfo=marks)
    return buffer.getvalue()


def gif(frames: Tensor, seconds: float = 3.0) -> bytes:
    """An endless GIF of frames in [0, 1], (T, C, H, W), that takes about `seconds` and pauses on its last frame.

    Its comment names vpfb.
    """
    pictures = [_to_pillow(frame) for frame in frames]
    each = max(20, round(1000 * seconds / len(pictures)))
    buffer = io.BytesIO()
    durations = [each] * (len(pictures) - 1) + [1500]
    pictures[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        optimize=False,
        comment=OURS.encode(),
    )
    return buffer.getvalue()


def npz(images: Tensor) -> bytes:
    """A NumPy archive with `images`, uint8 (N, H, W, C), which `data.load` can read."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=to_bytes(images).permute(0, 2, 3, 1).numpy())
    return buffer.getvalue()


def output_format(path: str) -> str:
    """The format of an output: "png", "npz" or "gif" by its file ending, "folder" without one, and "stdout" for "-".

    Raises:
        ConfigError: the path has another ending.
    """
    if path == "-":
        return "stdout"
    ending = Path(path).suffix.lower()
    if path.endswith("/") or not ending or Path(path).is_dir():
        return "folder"
    if ending not in (".png", ".npz", ".gif"):
        raise ConfigError(
            f"cannot write {path!r}: unknown output format {ending!r}",
            hint=".png is a grid, .npz an array, .gif the path from noise, a folder one PNG per image, - PNG on stdout",
        )
    return ending[1:]


def write_folder(folder: Path, images: Tensor, first: int = 0) -> None:
    """Write one PNG file per image, named by its index and marked as ours.

    The names are not flushed to disk: call `files.flush_names` after the last of them.
    """
    for index, image in enumerate(images, start=first):
        write_quickly(folder / f"{index:06d}.png", png(image))


def samples_in(folder: Path) -> list[Path]:
    """The samples that `write_folder` has left in a folder, which may be missing.

    Raises:
        ConfigError: a file has the name of a sample, and another program wrote it.
    """
    numbered = sorted(path for path in folder.glob("*.png") if is_sample_name(path.name))
    for path in numbered:
        if not is_own_picture(path):
            raise ConfigError(
                f"{path} would be overwritten, and vpfb did not write it", hint="choose another folder with -o"
            )
    return numbered


def _to_pillow(image: Tensor) -> Image.Image:
    pixels = to_bytes(image).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
