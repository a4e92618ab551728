"""The images of one set in the order of their scores: which of them are outliers?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpfb_core.data.images import ImageSet
from vpfb_core.errors import DataError
from vpfb_core.uses import density
from vpfb_core.uses.ood.scores import DEFAULT_BATCH, score
from vpfb_core.uses.ood.tables import cell, csv_table, image_name

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel


@dataclass(frozen=True)
class RankedImage:
    """One image and its figures.

    Attributes:
        index: its place in the set.
        file: its name.
        score: higher is more out-of-distribution.
        energy: the score of that name, in nats up to a constant.
        bits_per_dim: by the explicit density; None if the model's density is not calibrated.
    """

    index: int
    file: str
    score: float
    energy: float
    bits_per_dim: float | None


def rank(
    model: TrainedModel,
    images: ImageSet,
    name: str,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> list[RankedImage]:
    """Every image of a set, the greatest outlier first. Arguments and errors as in `scores.score`."""
    scores = score(model, images.images, name, seed=seed, batch_size=batch_size, on_batch=on_batch)
    if scores.isnan().any():
        raise DataError(f"the score of {image_name(images, int(scores.isnan().nonzero()[0]))} is NaN")
    energies = score(model, images.images, "energy", batch_size=batch_size)
    bits = None
    if model.calibration is not None:
        bits = density.bits_per_dim(model, images.images, seed=seed, batch_size=batch_size)
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
    """The images of a ranking: file, score, energy, bits_per_dim."""
    rows = ([one.file, cell(one.score), cell(one.energy), cell(one.bits_per_dim)] for one in ranking)
    return csv_table(["file", "score", "energy", "bits_per_dim"], rows)
