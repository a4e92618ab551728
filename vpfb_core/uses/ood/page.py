"""A ranking as a page of one file: its pictures with their scores, to look at, to sort and to choose from.

The page is the template `assets/outliers.html` with a title and one JSON document. Its script makes text nodes of all
texts, and its policy forbids it to load anything.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from vpfb_core.data.in_memory import InMemory
from vpfb_core.machine.file_names import printable, typed
from vpfb_core.uses.ood.ranking import Ranked, Ranking
from vpfb_core.uses.ood.thumbnails import FEW_PIXELS, media_type, thumbnails

MOST = 5_000  # pictures on a page; it scrolls smoothly with them, and has about 10 MB
_BINS = 60
_TITLE, _DATA = "@@TITLE@@", "@@DATA@@"
_FIRST_LINE = "<!doctype html><!-- vpfb score -->"


@dataclass(frozen=True)
class Column:
    """How a page names and explains a figure.

    Attributes:
        label: its name.
        meaning: what it says, in a sentence.
        first: the order in which a first click sorts it, "descending" or "ascending".
    """

    label: str
    meaning: str
    first: str = "descending"


COLUMNS = {
    "score": Column("Score", "How unlike the reference a picture is. The greatest outliers have the highest scores."),
    "energy": Column(
        "Energy",
        "The energy of the picture in the model, in nats up to a constant. On its own it does not find outliers, "
        "since smooth pictures have a low energy.",
    ),
    "bits_per_dim": Column(
        "Bits/dim",
        "The negative log-density of the slightly blurred picture, in bits per pixel and channel. Like the energy, it "
        "is for comparison.",
    ),
}


def page(
    ranking: Ranking,
    images: InMemory,
    *,
    title: str,
    summary: Sequence[str],
    folder: Path,
    most: int = MOST,
    on_picture: Callable[[int], None] | None = None,
) -> bytes:
    """A page of the greatest outliers of a ranking, in HTML.

    Args:
        ranking: the ranking.
        images: the images that were ranked.
        title: the heading.
        summary: sentences below the heading.
        folder: the folder of the page, from which it links to the files.
        most: the largest number of pictures on the page.
        on_picture: called with the number of pictures whose thumbnails are done.
    """
    shown, root = ranking.ranked[:most], images.root
    small = thumbnails(images, [one.index for one in shown], on_picture=on_picture)
    names = [name for name in ranking.columns[1:] if name in COLUMNS and any(_figure(one, name) for one in shown)]
    document = {
        "summary": list(summary),
        "total": len(ranking.ranked),
        "cut": None,
        "flagged": 0,
        "columns": [vars(COLUMNS[name]) for name in names],
        "kinds": {},
        "neighbours": None,
        "histogram": _histogram(ranking),
        "format": media_type(),
        "few_pixels": FEW_PIXELS,
        "pictures": [
            _picture(one, rank, names, root, folder) | {"thumbnail": rank - 1}
            for rank, one in enumerate(shown, start=1)
        ],
        "thumbnails": [base64.b64encode(each).decode("ascii") for each in small],
    }
    return _filled(title, document)


def is_page(first_line: str) -> bool:
    """Whether a file begins as a page does."""
    return first_line == _FIRST_LINE


def _filled(title: str, document: dict[str, Any]) -> bytes:
    """The template with a title and a document.

    It is divided at its marks before anything is put there, so that marks in the title or in the document stay.
    """
    template = resources.files("vpfb_core").joinpath("assets", "outliers.html").read_text("utf-8")
    before, mark, after = template.partition(_DATA)
    assert mark
    heading = html.escape(printable(title))
    # In JSON, these three signs are only in texts. Without them, nothing ends the element of the script.
    data = json.dumps(document, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return (heading.join(before.split(_TITLE)) + data + after).encode("utf-8")


def _picture(one: Ranked, rank: int, figures: Sequence[str], root: Path | None, folder: Path) -> dict[str, Any]:
    """A picture as the page describes it.

    Its path is absolute, so that a copied path can be pasted anywhere. `word` is the path as a word of a shell, if a
    line of text cannot hold it.
    """
    path = one.name if root is None else os.path.abspath(root / one.name)  # noqa: PTH100  (links stay)
    return {
        "name": printable(one.name),
        "path": path if printable(path) == path else printable(path),
        "word": None if printable(path) == path else typed(path),
        "href": None if root is None else _link(path, folder),
        "rank": rank,
        "flagged": False,
        "figures": [_number(_figure(one, name)) for name in figures],
        "stood_out": [],
        "nearest": [],
    }


def _link(path: str, folder: Path) -> str:
    """The address of a file relative to the folder of the page. Bytes that are not text are kept."""
    relative = os.path.relpath(path, os.path.abspath(folder))  # noqa: PTH100
    return urllib.parse.quote(os.fsencode(relative if relative.startswith("..") else f"./{relative}"))


def _figure(one: Ranked, name: str) -> float | None:
    return one.score if name == "score" else one.figures[name]


def _number(value: float | None) -> float | str | None:
    """A number for JSON with six digits. Infinity is a text, and NaN is None."""
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(f"{value:.6g}")


def _histogram(ranking: Ranking) -> dict[str, Any]:
    """The number of pictures in bins of their scores, and of the flagged ones among them."""
    scores = np.array([one.score for one in ranking.ranked])
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    counts, _ = np.histogram(finite, _BINS, (low, high))
    return {"low": low, "high": high, "counts": counts.tolist(), "flagged": [0] * _BINS}
