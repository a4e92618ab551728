"""The checks of a model during training: validation figures, and a grid of samples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.data import InMemory
from vpfb_core.data.statistics import Statistics
from vpfb_core.machine import noise
from vpfb_core.methods.step import Validation
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.draw import sample
from vpfb_core.uses.evaluation.neighbours import FEWEST, compare

VALIDATION_IMAGES = 512  # the largest number of validation images per check
LARGEST_BATCH = 128
GRID_IMAGES = 64
GRID_NFE = 12
QUICK_IMAGES, QUICK_NFE = 64, 2  # for a check that must not use up a time budget, such as the one before the first step


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        validation: the mean of each figure of the method over the validation data, by its name with the prefix `val_`.
        sample_accuracy: the result of the function `sample_accuracy`.
        grid: samples from the fixed noise of the run, as `draw.sample` returns them.
        seconds_per_image: the duration of the validation per image.
    """

    validation: dict[str, float]
    sample_accuracy: float
    grid: Tensor
    seconds_per_image: float


class Checks:
    """The validation data of a run, and the checks of its models with these data.

    Args:
        images: the validation images.
        statistics: the statistics that standardise them.
        device: the device of the computation.
        seed: the seed of the noise of validation and grid.
    """

    def __init__(self, images: InMemory, statistics: Statistics, device: torch.device, seed: int) -> None:
        rows = spread(torch.arange(len(images)), VALIDATION_IMAGES)
        values = images.data[rows]
        self._values, self._statistics = values, statistics
        learned = statistics.for_training(
            values, lambda: noise.uniform(values.shape[1:], seed, range(len(values)), "dequantisation")
        )
        self._data = statistics.standardise(learned, device)
        self._labels = None if images.labels is None else images.labels[rows].to(device)
        self.seed = seed

    def validate(
        self, model: TrainedModel, batch_size: int = LARGEST_BATCH, images: int = VALIDATION_IMAGES
    ) -> dict[str, float]:
        """The means of the method's figures, by name.

        Args:
            model: the model.
            batch_size: the largest number of images that are computed at once.
            images: the largest number of images that are used.
        """
        count, size = min(len(self._data), images), min(batch_size, LARGEST_BATCH)
        whole = Validation(self._data, self._labels, self.seed)
        parts = [
            model.method.held_out(model.field, whole.part(rows))
            for rows in (range(start, min(start + size, count)) for start in range(0, count, size))
        ]
        return {f"val_{name}": float(torch.cat([part[name] for part in parts]).mean()) for name in parts[0]}

    def cost(self, images: int = VALIDATION_IMAGES, nfe: int | None = None) -> int:
        """The number of gradients of a check. Arguments are those of `check`."""
        return min(len(self._data), images) + GRID_IMAGES * (nfe or GRID_NFE)

    def check(
        self,
        model: TrainedModel,
        batch_size: int = LARGEST_BATCH,
        images: int = VALIDATION_IMAGES,
        nfe: int | None = None,
    ) -> Checked:
        """Validate a model and draw its grid with `nfe` evaluations per image (None: GRID_NFE); see `validate`."""
        began = time.monotonic()
        validation = self.validate(model, batch_size, images)
        seconds = time.monotonic() - began
        drawn = sample(
            model, GRID_IMAGES, self.seed, condition=self._grid_condition(model), nfe=nfe or GRID_NFE,
            batch_size=min(GRID_IMAGES, batch_size),
        )  # fmt: skip
        accuracy = sample_accuracy(
            self._statistics.features(drawn.images), self._statistics.features(self._values[: len(drawn.images)])
        )
        return Checked(validation, accuracy, drawn.images, seconds / min(images, len(self._data)))

    def _grid_condition(self, model: TrainedModel) -> Tensor | None:
        """The condition of the grid: None, or the classes of real images if the unconditional field is not trained."""
        if self._labels is None or model.field.has_null:
            return None
        labels = self._labels[torch.arange(GRID_IMAGES, device=self._labels.device) % len(self._labels)]
        return labels.clamp(min=0)


def sample_accuracy(samples: Tensor, real: Tensor) -> float:
    """The accuracy of a 1-nearest-neighbour classifier of samples and as many real data, by their features (N, F).

    0.5 is perfect, and 1 means that samples and real images are separate. With the number of images of a grid it is
    accurate to about 0.05. It is NaN if there are too few images.
    """
    count = min(len(samples), len(real))
    if count < FEWEST:
        return math.nan
    return compare(samples[:count].flatten(1), real[:count].flatten(1)).accuracy


def spread(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows, equally spaced, since the data of a folder are sorted by class."""
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most) * len(rows) // most]
