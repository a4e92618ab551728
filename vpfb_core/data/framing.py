"""The size of the training pictures, and how any picture is brought to it: centre-crop, then antialiased resize."""

from __future__ import annotations

import math
from collections.abc import Collection
from statistics import median_low

from PIL import Image

SIZES = (8, 16, 32, 64, 128, 256)
MAX_BYTES = 8 * 2**30  # of pictures held in memory


def choose_size(shapes: Collection[tuple[int, int]], count: int, planes: int, max_size: int | None) -> int:
    """The side in pixels at which a set is held when nobody named one.

    The pictures' own size where all are squares of one size, else the largest of `SIZES` that the median short side
    reaches; in both cases at least 8, at most `max_size` (256 when None), and no more than fits into `MAX_BYTES`.

    Args:
        shapes: (width, height) of the pictures.
        count: how many pictures there are.
        planes: colour planes held a picture.
    """
    fitting = math.isqrt(MAX_BYTES // (count * planes))
    limit = max(SIZES[0], min(max_size or SIZES[-1], fitting))
    (side, other), *different = set(shapes)
    if not different and side == other and SIZES[0] <= side <= limit:
        return side
    limit = min(limit, median_low([min(shape) for shape in shapes]))
    return max((size for size in SIZES if size <= limit), default=SIZES[0])


def square(picture: Image.Image, size: int) -> Image.Image:
    """The centre square of an L or RGB picture at `size` × `size` pixels.

    Lanczos, whose support grows with the reduction (antialiased); large reductions are first averaged over whole
    blocks down to three times the size, which is much faster and looks the same. No resampling where none is needed.
    """
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
