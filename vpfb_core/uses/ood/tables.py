"""CSV files of scores: one row per image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpfb_core.data.images import ImageSet
    from vpfb_core.uses.ood.comparison import Scores, Sets
    from vpfb_core.uses.ood.ranking import RankedImage


def scores_table(sets: Sets, scores: Scores) -> bytes:
    """Every image of every set: set, role (in or out), image, and one column per score."""
    names = list(next(iter(scores.values())))
    rows = (
        [name, role, image_name(images, index), *(_figure(float(scores[name, role][each][index])) for each in names)]
        for (name, role), images in sets.items()
        for index in range(len(images))
    )
    return _csv(["set", "role", "image", *names], rows)


def ranking_table(ranking: Sequence[RankedImage]) -> bytes:
    """The images of a ranking: file, score, energy, bits_per_dim."""
    rows = ([one.file, _figure(one.score), _figure(one.energy), _figure(one.bits_per_dim)] for one in ranking)
    return _csv(["file", "score", "energy", "bits_per_dim"], rows)


def image_name(images: ImageSet, index: int) -> str:
    """The file of an image, or its place in an array.

    A name that a spreadsheet would run as a formula is written as the same path from the current folder.
    """
    if images.files is None:
        return f"{images.name}#{index}"
    file = images.files[index]
    return f"./{file}" if file.startswith(("=", "+", "-", "@")) else file


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(
        "utf-8", "surrogateescape"
    )  # names of files that are not UTF-8 come back as they were


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if math.isfinite(value) else str(value)
