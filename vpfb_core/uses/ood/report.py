"""What is written of scores: one row a pair and score, one row an image, and whose pictures belong least."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpfb_core.data.images import ImageSet
from vpfb_core.errors import DataError
from vpfb_core.machine import distributed
from vpfb_core.uses.ood.metrics import Detection, compare
from vpfb_core.uses.ood.scores import DEFAULT_BATCH, score

if TYPE_CHECKING:
    from vpfb_core.model.trained import Model


@dataclass(frozen=True)
class Row:
    """One pair of sets and one score."""

    out: str
    score: str
    detection: Detection

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        found = self.detection
        return {
            "out": self.out,
            "score": self.score,
            "auroc": found.auroc,
            "auroc_ci": list(found.auroc_ci),
            "aupr_in": found.aupr_in,
            "aupr_out": found.aupr_out,
            "fpr95": found.fpr95,
            "n_in": found.n_in,
            "n_out": found.n_out,
        }


Key = tuple[str, str]  # the name of a set and its role, "in" or "out"
Sets = Mapping[Key, ImageSet]
Scores = Mapping[Key, Mapping[str, Tensor]]  # of each image, by the name of the score


def score_sets(
    model: Model,
    sets: Sets,
    names: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_progress: Callable[[float], None] | None = None,
) -> dict[Key, dict[str, Tensor]]:
    """Every image of every set by every score. Other arguments and errors as in `scores.score`.

    Several processes of a job share the images; the first gets the scores, the others none.

    Args:
        on_progress: hears which share of the work is done.
    """
    total, done = len(names) * sum(map(len, sets.values())), 0
    found: dict[Key, dict[str, Tensor]] = {key: {} for key in sets}
    group = distributed.group()

    def hear(n: int) -> None:
        if on_progress is not None:
            on_progress((done + n * group.count) / total)

    for key, images in sets.items():
        for name in names:

            def scored(rows: range, images: ImageSet = images, name: str = name) -> Tensor:
                some = images.images[rows.start : rows.stop]
                return score(model, some, name, seed=seed, first=rows.start, batch_size=batch_size, on_batch=hear)

            if (parts := group.sharded(len(images), scored)) is not None:
                found[key][name] = torch.cat(parts) if parts else torch.empty(0)
            done += len(images)
    return found


def compare_all(scores: Scores) -> list[Row]:
    """A row for each set of strangers and each score, in the order given. Errors as in `metrics.compare`."""
    (members,) = (found for (_, role), found in scores.items() if role == "in")
    return [
        Row(name, each, compare(members[each], found[each]))
        for (name, role), found in scores.items()
        if role == "out"
        for each in found
    ]


def scores_table(sets: Sets, scores: Scores) -> bytes:
    """A CSV file with every image: set, role (in or out), image, and a column a score."""
    names = list(next(iter(scores.values())))
    rows = (
        [name, role, image_name(images, index), *(_figure(float(scores[name, role][each][index])) for each in names)]
        for (name, role), images in sets.items()
        for index in range(len(images))
    )
    return table(["set", "role", "image", *names], rows)


@dataclass(frozen=True)
class Judged:
    """One image of a folder.

    Attributes:
        index: among the images judged.
        file: its name.
        score: higher is more out-of-distribution.
        energy: as the score of that name, nats up to a constant.
        bits_per_dim: from one forward pass; None for a model whose density is not calibrated.
    """

    index: int
    file: str
    score: float
    energy: float
    bits_per_dim: float | None


def judge(
    model: Model,
    images: ImageSet,
    name: str,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> list[Judged]:
    """Every image of a set, the one that belongs least first. Arguments and errors as in `scores.score`."""
    scores = score(model, images.images, name, seed=seed, batch_size=batch_size, on_batch=on_batch)
    energies = score(model, images.images, "energy", batch_size=batch_size)
    bits = None
    if model.normaliser is not None:
        bits = model.bits_per_dim(images.images, seed=seed, batch_size=batch_size)
    if scores.isnan().any():
        raise DataError(f"the score of {image_name(images, int(scores.isnan().nonzero()[0]))} is NaN")
    order = scores.argsort(descending=True, stable=True).tolist()
    return [
        Judged(index, image_name(images, index), float(scores[index]), float(energies[index]),
               None if bits is None else float(bits[index]))
        for index in order
    ]  # fmt: skip


def judged_table(judged: Sequence[Judged]) -> bytes:
    """A CSV file: file, score, energy, bits_per_dim."""
    rows = (
        [
            one.file,
            _figure(one.score),
            _figure(one.energy),
            "" if one.bits_per_dim is None else _figure(one.bits_per_dim),
        ]
        for one in judged
    )
    return table(["file", "score", "energy", "bits_per_dim"], rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file, UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def image_name(images: ImageSet, index: int) -> str:
    """The file of an image, or its place in an array.

    A name that a spreadsheet would run as a formula is written as the same path from the current folder.
    """
    if images.files is None:
        return f"{images.name}#{index}"
    file = images.files[index]
    return f"./{file}" if file.startswith(("=", "+", "-", "@")) else file


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if math.isfinite(value) else str(value)
