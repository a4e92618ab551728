"""The size of training images, and the centre crop and antialiased resize that bring images to it."""

from __future__ import annotations

import math
from collections.abc import Collection
from statistics import median_low

from PIL import Image

from vpfb_core.machine.limits import memory_share

SIZES = (8, 16, 32, 64, 128, 256)
MAX_BYTES = min(8 * 2**30, memory_share())  # the largest size of all images in memory


def choose_size(shapes: Collection[tuple[int, int]], count: int, planes: int, max_size: int | None) -> int:
    """The side of the images in pixels, if the user gave none.

    It is the size of the images if all are squares of one size. Otherwise it is the largest of `SIZES` that is at most
    the median of their short sides. In both cases it is at least 8 and at most `max_size` (256 if that is None), and
    all images fit into `MAX_BYTES`.

    Args:
        shapes: the sizes (width, height) of the images.
        count: the number of images.
        planes: the number of colour planes per image.
        max_size: the largest side that may be chosen.
    """
    fitting = math.isqrt(MAX_BYTES // (count * planes))
    limit = max(SIZES[0], min(max_size or SIZES[-1], fitting))
    (side, other), *different = set(shapes)
    if not different and side == other and SIZES[0] <= side <= limit:
        return side
    limit = min(limit, median_low([min(shape) for shape in shapes]))
    return max((size for size in SIZES if size <= limit), default=SIZES[0])


def square(picture: Image.Image, size: int) -> Image.Image:
    """The centre square of an L or RGB image at `size` × `size` pixels.

    The filter is Lanczos, whose support grows with the reduction (antialiased). Large reductions begin with averages
    over whole blocks, down to three times the size, which is much faster and looks the same. An image that already has
    the size is not resampled.
    """
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
