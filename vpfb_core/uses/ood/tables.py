"""CSV files with one row per image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpfb_core.data.images import ImageSet


def image_name(images: ImageSet, index: int) -> str:
    """The file name of an image, or the name of its set with its index.

    A file name that a spreadsheet would execute as a formula is written as a path from the current folder.
    """
    if images.files is None:
        return f"{images.name}#{index}"
    file = images.files[index]
    return f"./{file}" if file.startswith(("=", "+", "-", "@")) else file


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in UTF-8 with these columns and rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # file names that are not UTF-8 keep their bytes


def cell(value: float | None) -> str:
    """A number as text with six digits; empty for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if math.isfinite(value) else str(value)
