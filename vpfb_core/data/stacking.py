"""Decoding of many images of any size and colour into one uint8 tensor of squares, by threads, in a fixed order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpfb_core.data.decoding import BITS, OVER_WHITE, UnreadableError, eight_bit
from vpfb_core.data.framing import MAX_BYTES, square
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.limits import cores

Result = TypeVar("Result")

CHROMA = 12  # a pixel has colour if the largest of R, G, B exceeds the smallest by more; a grey JPEG's noise does not
FEW = 0.01  # fraction of coloured images up to which a set is grey
_WHITE = 251  # the least grey level of an image that is white all over
_THREADS = 16  # the largest number chosen: each thread may hold one whole large image
_CHUNK = 64  # images per task of a thread


@dataclass(frozen=True)
class Stack:
    """Images of one size.

    Attributes:
        images: uint8 (N, C, S, S).
        kept: the index of each image among the requested ones, increasing.
        skipped: (index, reason) of the unreadable ones.
        notes: sentences about how the images were converted.
    """

    images: Tensor
    kept: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Taken:
    """One image, or the reason why it cannot be read.

    Attributes:
        shape: its size (width, height) before it is cropped.
        coloured: whether it has colour.
        bits: the number of bits of its grey levels, if it is stored with more than 8.
        vanished: whether it has transparency and is all white when it is laid over white.
        reason: the reason why it cannot be read.
    """

    shape: tuple[int, int] = (0, 0)
    coloured: bool = False
    bits: int | None = None
    vanished: bool = False
    reason: str | None = None


def thread_count(workers: int) -> int:
    """The number of threads for `workers`: 0 is one per core that this process may use, at most `_THREADS`."""
    return workers or min(cores(), _THREADS)


def in_order(work: Callable[[int], Result], count: int, workers: int) -> Iterator[Result]:
    """The results of work(0), …, work(count − 1) in this order, computed by `workers` threads (`thread_count`)."""
    threads = thread_count(workers)
    step = max(1, min(_CHUNK, count // (4 * threads)))
    chunks = [range(start, min(start + step, count)) for start in range(0, count, step)]
    with ThreadPoolExecutor(threads) as pool:
        for results in pool.map(lambda chunk: [work(i) for i in chunk], chunks):
            yield from results


def stack(
    read: Callable[[int], Image.Image],
    count: int,
    *,
    size: int,
    channels: int | None,
    only_grey: bool = False,
    workers: int = 0,
) -> Stack:
    """Read, crop, resize and stack images.

    Args:
        read: maps an index to an image of mode L or RGB, or raises UnreadableError. It is called from several threads.
        count: the number of images.
        size: S, the side in pixels.
        channels: C, 1 or 3. None is 3 if more than a fraction `FEW` of the images have colour, else 1.
        only_grey: whether it is known that no image has colour.
        workers: the number of threads that decode; 0 is one per core.
    Raises:
        DataError: the images would need more than `MAX_BYTES`.
    """
    pixels = _allocated(count, channels or (1 if only_grey else 3), size)

    def take(i: int) -> _Taken:
        try:
            picture = read(i)
        except UnreadableError as error:
            return _Taken(reason=str(error))
        coloured = write_picture(square(picture, size), pixels[i])
        vanished = OVER_WHITE in picture.info and bool(pixels[i].min() >= _WHITE)
        return _Taken(picture.size, coloured, picture.info.get(BITS), vanished)

    outcomes = list(in_order(take, count, workers))
    kept = tuple(i for i, taken in enumerate(outcomes) if taken.reason is None)
    skipped = tuple((i, taken.reason) for i, taken in enumerate(outcomes) if taken.reason is not None)
    if skipped:
        for target, i in enumerate(kept):  # in place, as the set may fill the memory
            pixels[target] = pixels[i]
        pixels = pixels[: len(kept)]

    pixels, notes = _coloured_or_grey(pixels, sum(taken.coloured for taken in outcomes), channels)
    notes = _described([outcomes[i].shape for i in kept], size, pixels.shape[1]) + notes + _remarks(outcomes)
    return Stack(torch.from_numpy(pixels), kept, skipped, notes)


def stack_array(pixels: np.ndarray, *, size: int, channels: int | None, workers: int = 0) -> Stack:
    """The result of `stack` for images in an array, uint8 (N, H, W, C) with C in {1, 3, 4}.

    It is fast if the images already have the size.

    Raises:
        DataError: the images would need more than `MAX_BYTES`.
    """
    count, height, width, depth = pixels.shape
    if (height, width) != (size, size) or depth == 4:
        return stack(
            lambda i: eight_bit(Image.fromarray(pixels[i, :, :, 0] if depth == 1 else pixels[i])),
            count,
            size=size,
            channels=channels,
            only_grey=depth == 1,
            workers=workers,
        )
    planes = _allocated(count, max(depth, channels or 1), size)
    planes[:] = pixels.transpose(0, 3, 1, 2)
    coloured = 0
    if depth == 3 and channels != 3:
        coloured = sum(_has_colour(planes[start : start + 1024]).sum() for start in range(0, count, 1024))
    if channels == 1 and depth == 3:
        planes = _all_luma(planes)
    planes, notes = _coloured_or_grey(planes, coloured, channels)
    notes = _described([(width, height)] * count, size, planes.shape[1]) + notes
    return Stack(torch.from_numpy(planes), tuple(range(count)), (), notes)


def _allocated(count: int, planes: int, size: int) -> np.ndarray:
    """Memory for images, uint8 (count, planes, size, size)."""
    if (needed := count * planes * size * size) > MAX_BYTES:
        gibibytes = f"{needed / 2**30:.1f} GiB, more than the {MAX_BYTES / 2**30:g} GiB allowed"
        raise DataError(
            f"{count:,} images of {size}x{size} would take {gibibytes}",
            hint="use fewer images, or train with a smaller `size`",
        )
    return np.empty((count, planes, size, size), np.uint8)


def _coloured_or_grey(pixels: np.ndarray, coloured: int, channels: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The images (N, 3, S, S), in grey (N, 1, S, S) if `channels` is None and few of them have colour; and a note."""
    if channels == 1 and coloured:
        return pixels, (f"colour is dropped, since grey images were requested: {coloured:,} of them are in colour",)
    if channels is not None or pixels.shape[1] == 1 or coloured > FEW * len(pixels):
        return pixels, ()
    note = f"{coloured} of them are in colour and read as grey (`channels=3` keeps the colour)"
    return _all_luma(pixels), ((note,) if coloured else ())


def _remarks(outcomes: list[_Taken]) -> tuple[str, ...]:
    """Sentences about images that were converted in an unexpected way."""
    depths = Counter(taken.bits for taken in outcomes if taken.bits not in (None, 16))
    notes = [
        f"{bits}-bit grey levels in 16 bits, scaled by {2**bits - 1:,}: {count:,} of them"
        for bits, count in depths.items()
        if bits is not None
    ]
    if vanished := sum(taken.vanished for taken in outcomes):
        notes.append(
            f"blank, since they are white on a transparent ground, which is laid over white: {vanished:,} of them"
        )
    return tuple(notes)


def write_picture(picture: Image.Image, target: np.ndarray) -> bool:
    """Write an L or RGB image of S×S pixels to target, uint8 (C, S, S). Returns whether it has colour."""
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        target[:] = pixels
        return False
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    target[:] = planes if len(target) == 3 else _luma(planes)
    return bool(_has_colour(planes))


def _has_colour(planes: np.ndarray) -> np.ndarray:
    """Whether some pixel of each image (..., 3, H, W) is more than `CHROMA` away from grey, bool (...)."""
    red, green, blue = (planes[..., i, :, :] for i in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return spread.max(axis=(-2, -1)) > CHROMA


def _luma(planes: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, (..., 3, H, W) → (..., 1, H, W), in Pillow's integer arithmetic: exact where R = G = B."""
    red, green, blue = (planes[..., i : i + 1, :, :].astype(np.uint32) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def _all_luma(pixels: np.ndarray) -> np.ndarray:
    grey = np.empty((len(pixels), 1, *pixels.shape[2:]), np.uint8)
    for start in range(0, len(pixels), 1024):
        grey[start : start + 1024] = _luma(pixels[start : start + 1024])
    return grey


def _described(shapes: list[tuple[int, int]], size: int, planes: int) -> tuple[str, ...]:
    count = counted(len(shapes), f"{'colour' if planes == 3 else 'grey'} images")
    if all(shape == (size, size) for shape in shapes):
        return (f"{count} of {size}x{size}",)
    how = "resized" if all(width == height for width, height in shapes) else "centre-cropped and resized"
    small = sum(min(shape) < size for shape in shapes)
    enlarged = (f"{small:,} of them are smaller than {size}x{size} and were enlarged",) if small else ()
    return (f"{count}, {how} to {size}x{size} (Lanczos)", *enlarged)
