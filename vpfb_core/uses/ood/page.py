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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from vpfb_core.data.in_memory import InMemory
from vpfb_core.machine.file_names import printable, typed
from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.ood.ranking import Ranked, Ranking
from vpfb_core.uses.ood.reference_images import ReferenceImages
from vpfb_core.uses.ood.thumbnails import FEW_PIXELS, media_type, thumbnails

MOST = 5_000  # pictures on a page; it scrolls smoothly with them, and has about 10 MB
_BINS = 60
_NEAREST = "The pictures it is compared with that are most like it. If they look right beside it, it may be no outlier."
_ORIGIN, _TITLE, _DATA = "@@ORIGIN@@", "@@TITLE@@", "@@DATA@@"
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
    "score": Column("Score", "How unlike the others a picture is. The greatest outliers have the highest scores."),
    "p_value": Column(
        "p-value",
        "The share of the pictures it is compared with that are at least as unusual, each compared without itself. "
        "0.01 means that one picture in a hundred is as unusual as this one.",
        "ascending",
    ),
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

KINDS = {
    "recording": Column("drawn or recorded differently", "Its energies at the noise levels of the model are unusual."),
    "denoising": Column(
        "harder or easier to denoise",
        "To remove noise, the model would change unusually much of it, or unusually little.",
    ),
    "content": Column("shows something else", "The features that the network sees in it are unusual."),
    "network": Column("unusual to your network", "The features that your own network finds are unusual."),
    "shape": Column("shaped differently", "Its edges run in unusual directions at some places."),
    "detail": Column(
        "details or colours of unusual strength",
        "Its details of some size are unusually strong or weak, or, if it is not grey, its mean colour is unusual.",
    ),
    "shading": Column("light and dark elsewhere", "It turns from dark to light in unusual directions at some places."),
    "part": Column("a part is unusual", "The edges of one part of it are unlike those of others at the same place."),
    "altered": Column(
        "looks altered",
        "It looks as if something was pasted into it, mixed with it or covered, or as if it was recoloured.",
    ),
}


def page(
    ranking: Ranking,
    images: InMemory,
    reference: ReferenceImages | None,
    *,
    title: str,
    summary: Sequence[str],
    folder: Path,
    moved: Mapping[str, Path] | None = None,
    origin: Origin = UNKNOWN,
    on_picture: Callable[[int], None] | None = None,
) -> bytes:
    """A page of the `MOST` greatest outliers of a ranking, in HTML.

    Args:
        ranking: the ranking.
        images: the images that were ranked.
        reference: what they were compared with; None if it is not known, or not to be shown.
        title: the heading.
        summary: sentences below the heading.
        folder: the folder of the page, from which it links to the files.
        moved: the new paths of files that are moved before anybody opens the page, by their names.
        origin: the origin that is recorded in the page.
        on_picture: called with the number of pictures whose thumbnails are done.
    """
    shown = ranking.ranked[:MOST]
    nearest = [[] if reference is None else [reference.indices[row] for row in one.nearest] for one in shown]
    small, own, theirs = _thumbnails(images, shown, reference, nearest, on_picture)
    names = [name for name in COLUMNS if any(_figure(one, name) is not None for one in shown)]
    kinds = list(dict.fromkeys(kind for one in shown for kind in one.evidence))

    def neighbour(index: int) -> list[Any]:
        assert reference is not None
        return [theirs[index], printable(reference.names[index])]

    document = {
        "summary": list(summary),
        "total": len(ranking.ranked),
        "cut": _cut(ranking),
        "flagged": len(ranking.flagged),
        "columns": [vars(COLUMNS[name]) for name in names],
        "kinds": {kind: vars(KINDS.get(kind, Column(kind, ""))) for kind in kinds},
        "neighbours": None if reference is None or not any(nearest) else vars(Column(reference.label, _NEAREST)),
        "histogram": _histogram(ranking),
        "format": media_type(),
        "few_pixels": FEW_PIXELS,
        "pictures": [
            {
                **_names_of_file(one.name, images.root, folder, moved or {}),
                "rank": rank,
                "flagged": one.flagged,
                "thumbnail": own[one.index],
                "figures": [_number(_figure(one, name)) for name in names],
                "stood_out": _stood_out(one, ranking.flag),
                "nearest": [neighbour(index) for index in indices],
            }
            for rank, (one, indices) in enumerate(zip(shown, nearest, strict=True), start=1)
        ],
        "thumbnails": [base64.b64encode(each).decode("ascii") for each in small],
    }
    return _filled(title, origin, document)


def is_page(first_line: str) -> bool:
    """Whether a file begins as a page does."""
    return first_line == _FIRST_LINE


def _filled(title: str, origin: Origin, document: dict[str, Any]) -> bytes:
    """The template with a title, an origin and a document.

    It is divided at its marks before anything is put there, so that marks in the title or in the document stay.
    """
    template = resources.files("vpfb_core").joinpath("assets", "outliers.html").read_text("utf-8")
    before, mark, after = template.partition(_DATA)
    assert mark
    heading = html.escape(printable(title))
    # In JSON, these three characters are only in texts. Without them, nothing ends the element of the script.
    data = json.dumps(document, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    head, rest = before.split(_ORIGIN)
    parts = [head, html.escape(origin.comment()), heading.join(rest.split(_TITLE)), data, after]
    return "".join(parts).encode("utf-8")


def _thumbnails(
    images: InMemory,
    shown: Sequence[Ranked],
    reference: ReferenceImages | None,
    nearest: Sequence[Sequence[int]],
    on_picture: Callable[[int], None] | None,
) -> tuple[list[bytes], Mapping[int, int], Mapping[int, int]]:
    """All thumbnails, each once, and the indices among them of those of the images and of the reference images."""
    own = [one.index for one in shown]
    theirs = list(dict.fromkeys(index for indices in nearest for index in indices))
    if reference is None or reference.images is images:
        rows = list(dict.fromkeys([*own, *theirs]))
        indices = {row: index for index, row in enumerate(rows)}
        return thumbnails(images, rows, on_picture=on_picture), indices, indices
    small = thumbnails(images, own, on_picture=on_picture) + thumbnails(reference.images, theirs)
    return (
        small,
        {row: index for index, row in enumerate(own)},
        {row: index for index, row in enumerate(theirs, start=len(own))},
    )


def _cut(ranking: Ranking) -> float | None:
    """The score between the flagged pictures and the others; None if there are not both."""
    flagged = min((one.score for one in ranking.flagged), default=math.nan)
    others = max((one.score for one in ranking.ranked if not one.flagged), default=math.nan)
    cut = (flagged + others) / 2
    return cut if math.isfinite(cut) else None


def _names_of_file(name: str, root: Path | None, folder: Path, moved: Mapping[str, Path]) -> dict[str, Any]:
    """How the page names a picture and where it is.

    The path is absolute, so that a copied path can be pasted anywhere. `word` is the path as a word of a shell, if a
    line of text cannot hold it.
    """
    path = name if root is None else os.path.abspath(moved.get(name, root / name))  # noqa: PTH100  (links stay)
    return {
        "name": printable(name),
        "path": printable(path),
        "word": None if printable(path) == path else typed(path),
        "href": None if root is None else _link(path, folder),
    }


def _stood_out(one: Ranked, flag: float) -> list[list[Any]]:
    """The kinds of evidence in which a picture is unusual, the most unusual first, with their p-values.

    These are the kinds whose p-value is at most the rate of flags. A flagged picture has at least one.
    """
    ordered = sorted(one.evidence.items(), key=lambda entry: entry[1])
    unusual = [entry for entry in ordered if entry[1] <= flag] or (ordered[:1] if one.flagged else [])
    return [[kind, _number(p_value)] for kind, p_value in unusual]


def _link(path: str, folder: Path) -> str:
    """The address of a file relative to the folder of the page. Bytes that are not text are kept."""
    relative = os.path.relpath(path, os.path.abspath(folder))  # noqa: PTH100
    return urllib.parse.quote(os.fsencode(relative if relative.startswith("..") else f"./{relative}"))


def _figure(one: Ranked, name: str) -> float | None:
    if name in ("score", "p_value"):
        return one.score if name == "score" else one.p_value
    return one.figures.get(name)


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
    flagged = np.array([one.score for one in ranking.flagged if math.isfinite(one.score)])
    counts, of_flagged = (np.histogram(each, _BINS, (low, high))[0].tolist() for each in (finite, flagged))
    return {"low": low, "high": high, "counts": counts, "flagged": of_flagged}
