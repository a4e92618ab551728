"""Small pictures of images, encoded for a page."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence

from PIL import Image, features

from vpfb_core.data.decoding import UnreadableError, read_picture, warnings_silenced
from vpfb_core.data.framing import square
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.stacking import in_order
from vpfb_core.uses.pictures import to_pillow

SIDE = 128  # pixels; a page shows them at 96, and screens of high resolution have more pixels than that
FEW_PIXELS = 48  # a picture up to this side is kept without loss, and the page shows its pixels as squares
_QUALITY = 75  # of WebP; 1.5 kB per face, 3 kB per photograph with more details


def media_type() -> str:
    """The media type of thumbnails: WebP, which takes half as much as JPEG, or PNG where Pillow has no WebP."""
    return "image/webp" if features.check("webp") else "image/png"


def thumbnails(
    images: InMemory, rows: Sequence[int], *, on_picture: Callable[[int], None] | None = None
) -> list[bytes]:
    """Thumbnails of images, each a file of `media_type`.

    A picture file is read again if the images are smaller than a thumbnail, so that a person sees more of it than the
    model did. A file that cannot be read any more is shown as it was.

    Args:
        images: the images, uint8.
        rows: the images of which thumbnails are made.
        on_picture: called with the number of thumbnails that are done.
    """
    size = images.data.shape[-1]
    root, files = images.root, images.files

    def one(i: int) -> bytes:
        if root is not None and files is not None and size < SIDE:
            with contextlib.suppress(UnreadableError):
                return encode(read_picture(root / files[rows[i]], SIDE))
        return encode(to_pillow(images.data[rows[i]]))

    found = []
    with warnings_silenced():
        for thumbnail in in_order(one, len(rows), 0):
            found.append(thumbnail)
            if on_picture is not None:
                on_picture(len(found))
    return found


def encode(picture: Image.Image) -> bytes:
    """The thumbnail of a picture: its centre square, reduced to `SIDE` if it is larger."""
    picture = square(picture, min(*picture.size, SIDE))
    buffer = io.BytesIO()
    if media_type() == "image/webp":
        picture.save(buffer, format="WEBP", lossless=picture.width <= FEW_PIXELS, quality=_QUALITY, method=4)
    else:
        picture.save(buffer, format="PNG")
    return buffer.getvalue()
