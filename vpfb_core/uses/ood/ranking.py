"""The ranking of the images of one set by their scores, which shows its outliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpfb_core.data.in_memory import InMemory
from vpfb_core.errors import DataError
from vpfb_core.machine.csv_files import csv_table
from vpfb_core.uses import density
from vpfb_core.uses.ood.scores import DEFAULT_BATCH, score
from vpfb_core.uses.ood.tables import cell, image_name

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

COLUMNS = ("file", "score", "energy", "bits_per_dim")  # of the table of a ranking


@dataclass(frozen=True)
class RankedImage:
    """An image of a ranking.

    Attributes:
        index: the index of the image in the set.
        file: the name of the image.
        score: the score by which the images are ranked; higher is more out-of-distribution.
        energy: the score "energy", in nats up to a constant.
        bits_per_dim: the bits per dimension by the explicit density; None if the model is not calibrated.
    """

    index: int
    file: str
    score: float
    energy: float
    bits_per_dim: float | None


def rank(
    model: TrainedModel,
    images: InMemory,
    name: str,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> list[RankedImage]:
    """All images of a set, the most out-of-distribution first.

    Arguments and errors are those of `scores.score`.

    Raises:
        DataError: a score is NaN.
    """
    scores = score(model, images.data, name, seed=seed, batch_size=batch_size, on_batch=on_batch)
    if scores.isnan().any():
        raise DataError(f"the score of {image_name(images, int(scores.isnan().nonzero()[0]))} is NaN")
    energies = score(model, images.data, "energy", batch_size=batch_size)
    bits = None
    if model.calibration is not None:
        bits = density.bits_per_dim(model, images.data, seed=seed, batch_size=batch_size)
    return [
        RankedImage(
            index=index,
            file=image_name(images, index),
            score=float(scores[index]),
            energy=float(energies[index]),
            bits_per_dim=None if bits is None else float(bits[index]),
        )
        for index in scores.argsort(descending=True, stable=True).tolist()
    ]


def ranking_table(ranking: Sequence[RankedImage]) -> bytes:
    """A CSV file with one row per image: file, score, energy and bits_per_dim."""
    rows = ([one.file, cell(one.score), cell(one.energy), cell(one.bits_per_dim)] for one in ranking)
    return csv_table(COLUMNS, rows)
