"""CSV files of scores: one row per image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpfb_core.data.images import ImageSet


def image_name(images: ImageSet, index: int) -> str:
    """The file of an image, or its place in an array.

    A name that a spreadsheet would run as a formula is written as the same path from the current folder.
    """
    if images.files is None:
        return f"{images.name}#{index}"
    file = images.files[index]
    return f"./{file}" if file.startswith(("=", "+", "-", "@")) else file


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file of these columns and rows, UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(
        "utf-8", "surrogateescape"
    )  # names of files that are not UTF-8 come back as they were


def cell(value: float | None) -> str:
    """A number for people and programs to read; empty for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if math.isfinite(value) else str(value)
