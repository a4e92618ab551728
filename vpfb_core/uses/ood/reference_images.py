"""The pictures that a ranking compares with, as far as a page of the ranking shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vpfb_core.data.in_memory import InMemory
from vpfb_core.errors import DataError
from vpfb_core.uses.ood.ranking import Ranking
from vpfb_core.uses.ood.tables import image_name
from vpfb_core.uses.training_set import TrainingSet


@dataclass(frozen=True)
class ReferenceImages:
    """Some of the images that a ranking compares with.

    Attributes:
        images: these images.
        indices: the index of each in `images`, by its row in `Ranking.reference`.
        names: their names, in the order of `images`.
        label: what they are called together.
    """

    images: InMemory
    indices: Mapping[int, int]
    names: Sequence[str]
    label: str

    @classmethod
    def same(cls, images: InMemory) -> ReferenceImages:
        """The reference of a ranking without a model, which is the images themselves."""
        rows = range(len(images))
        return cls(
            images, {row: row for row in rows}, [image_name(images, row) for row in rows], "Nearest other pictures"
        )


def nearest_training_images(training: TrainingSet, ranking: Ranking, count: int) -> ReferenceImages | None:
    """The training images that are nearest to the first `count` data of a ranking; None if it names none.

    Nothing is downloaded.

    Args:
        training: the data of the training of the model.
        ranking: the ranking.
        count: the number of data whose neighbours are needed.
    Raises:
        DataError: the data of the training cannot be read, or are not the same any more.
    """
    rows = sorted({row for one in ranking.ranked[:count] for row in one.nearest})
    if not rows:
        return None
    source, trained_on = training.load(download=False)
    if trained_on is None:
        raise DataError(f"'{source.name}' is not as it was when the model was trained")
    images = source.subset(torch.tensor(rows))
    if len(images) != len(rows):
        raise DataError(f"some files in '{source.name}' cannot be read any more")
    indices = {row: index for index, row in enumerate(rows)}
    names = [f"{source.name}#{row}" for row in rows] if images.files is None else images.files
    return ReferenceImages(images, indices, names, "Nearest training pictures")
