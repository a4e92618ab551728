"""Image files from tensors: grids, PNG, GIF and NumPy archives."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.data.own_files import is_own_picture, is_sample_name
from vpfb_core.errors import ConfigError
from vpfb_core.machine.files import Writer, write_quickly
from vpfb_core.machine.origin import UNKNOWN, Origin

# Small images are enlarged by an integer factor to about this many pixels per side, so that a grid is easy to view.
TILE = 64
LARGEST_GRID = 2**28  # pixels of a grid, or of all frames of an animation: under 1 GiB in colour
LONGEST_SIDE = 65_535  # pixels; GIF and many programs that show pictures go no further
_GAP = 2


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """A grid of images on a white background.

    Args:
        images: float in [0, 1] or uint8, (N, C, H, W).
        columns: the number of images per row; None makes the grid as square as possible.
    Returns:
        (C, height, width), like images.
    """
    count, channels, height, width = images.shape
    factor, columns = _enlargement(height, width), columns or _square(count)
    down, right = height * factor + _GAP, width * factor + _GAP  # from one image to the next
    white = 1.0 if images.is_floating_point() else 255
    grid = images.new_full((channels, -(-count // columns) * down + _GAP, columns * right + _GAP), white)
    for index, image in enumerate(images):
        top, left = (index // columns) * down + _GAP, (index % columns) * right + _GAP
        enlarged = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        grid[:, top : top + enlarged.shape[1], left : left + enlarged.shape[2]] = enlarged
    return grid


def require_grid(
    count: int,
    shape: Sequence[int],
    *,
    columns: int | None = None,
    frames: int = 1,
    instead: str = "ask for fewer images",
) -> None:
    """Check that a picture file can hold a grid, before its images are drawn.

    Args:
        count: the number of images.
        shape: (C, H, W) of each image.
        columns: the number of columns, as in `tile`.
        frames: the number of grids in an animation.
        instead: the hint of the error.
    Raises:
        ConfigError: the grid would be larger than `LARGEST_GRID` or `LONGEST_SIDE`.
    """
    _, height, width = shape
    factor, columns = _enlargement(height, width), columns or _square(count)
    down, right = -(-count // columns) * (height * factor + _GAP) + _GAP, columns * (width * factor + _GAP) + _GAP
    if down * right * frames > LARGEST_GRID or max(down, right) > LONGEST_SIDE:
        times = f", {frames:,} times" if frames > 1 else ""
        raise ConfigError(
            f"a grid of {count:,} images of {height}x{width} would have {right:,}x{down:,} pixels{times}",
            hint=f"a grid has at most {LARGEST_GRID:,} pixels, and {LONGEST_SIDE:,} per side; {instead}",
        )


def _enlargement(height: int, width: int) -> int:
    return max(1, TILE // max(height, width))


def _square(count: int) -> int:
    """The number of columns that makes a grid of that many images as square as possible."""
    return 1 + math.isqrt(count - 1)


def png(image: Tensor, origin: Origin = UNKNOWN) -> bytes:
    """A PNG file of an image, in [0, 1] or uint8, (C, H, W) with C = 1 or 3, in which its origin is recorded."""
    buffer, marks = io.BytesIO(), PngInfo()
    for keyword, text in origin.texts().items():
        marks.add_text(keyword, text)
    to_pillow(image).save(buffer, format="PNG", pnginfo=marks)
    return buffer.getvalue()


def gif(frames: Tensor, seconds: float = 3.0, *, origin: Origin = UNKNOWN) -> bytes:
    """An endless GIF of frames in [0, 1], (T, C, H, W), that takes about `seconds` and pauses on its last frame.

    Its comment records its origin.
    """
    pictures = [to_pillow(frame) for frame in frames]
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
        comment=origin.comment().encode(),
    )
    return buffer.getvalue()


@contextlib.contextmanager
def npz(
    file: Writer,
    count: int,
    shape: Sequence[int],
    labels: Mapping[str, np.ndarray] | None = None,
    origin: Origin = UNKNOWN,
) -> Iterator[Callable[[Tensor], None]]:
    """Write a NumPy archive with `images`, uint8 (N, H, W, C), and perhaps labels, which `data.load` can read.

    If the origin of the images has a seed, the integer `seed` records it. The images are compressed as they are added,
    so that the memory does not limit their number.

    Args:
        file: the file that is written.
        count: the number of images.
        shape: (C, H, W) of each image.
        labels: `labels`, int64 (N,), and `classes`, their names.
        origin: the origin of the images.
    Yields:
        A function that adds the next images, in [0, 1] or uint8, (n, C, H, W).
    """
    channels, height, width = shape
    entry = zipfile.ZipInfo("images.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(cast(IO[bytes], file), "w") as archive:
        with archive.open(entry, "w", force_zip64=True) as array:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
            np.lib.format.write_array_header_1_0(array, header)
            yield lambda images: _append(array, to_bytes(images).permute(0, 2, 3, 1).contiguous())
        seed = {} if origin.seed is None else {"seed": np.array(origin.seed)}
        for name, values in {**(labels or {}), **seed}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as array:
                np.lib.format.write_array(array, values, allow_pickle=False)


def _append(array: IO[bytes], images: Tensor) -> None:
    array.write(images.numpy().tobytes())


def output_format(path: str, *, animated: bool = True) -> str:
    """The format of an output: "png", "npz" or "gif" by its file ending, "folder" without one, and "stdout" for "-".

    Args:
        path: the output as it was typed.
        animated: whether there is a path from noise, which a "gif" shows.
    Raises:
        ConfigError: the path has another ending.
    """
    if path == "-":
        return "stdout"
    ending = Path(path).suffix.lower()
    if path.endswith("/") or not ending or Path(path).is_dir():
        return "folder"
    if ending == ".gif" and not animated:
        raise ConfigError(f"cannot write {path!r}: there is no path from noise to show", hint=".png is a grid")
    if ending not in (".png", ".npz", ".gif"):
        path_too = ".gif the path from noise, " if animated else ""
        raise ConfigError(
            f"cannot write {path!r}: unknown output format {ending!r}",
            hint=f".png is a grid, .npz an array, {path_too}a folder one PNG per image, - a PNG on stdout",
        )
    return ending[1:]


def write_folder(folder: Path, images: Tensor, first: int = 0, origin: Origin = UNKNOWN) -> None:
    """Write one PNG file per image, named by its index and marked as ours.

    The names are not flushed to disk: call `files.flush_names` after the last of them.
    """
    for index, image in enumerate(images, start=first):
        write_quickly(folder / f"{index:06d}.png", png(image, origin))


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


def to_pillow(image: Tensor) -> Image.Image:
    """An image in [0, 1] or uint8, (C, H, W) with C = 1 or 3, in mode L or RGB."""
    pixels = to_bytes(image).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
