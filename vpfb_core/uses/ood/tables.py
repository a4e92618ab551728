"""The cells of CSV files with one row per image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpfb_core.data.in_memory import InMemory


def image_name(images: InMemory, index: int) -> str:
    """The file name of an image as it is on disk, or the name of its set with its index."""
    return f"{images.name}#{index}" if images.files is None else images.files[index]


def cell(value: float | None) -> str:
    """A number as text with six digits; empty for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if math.isfinite(value) else str(value)
