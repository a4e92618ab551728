"""What a run's held-out residual is measured on, and what its samples are compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vpfb_core.data import ImageSet
from vpfb_core.data.statistics import Statistics
from vpfb_core.training.plan import Plan
from vpfb_core.training.trainer import Trainer
from vpfb_core.uses.evaluation.held_out import HeldOut
from vpfb_core.uses.evaluation.neighbours import FEWEST, compare

HELD_OUT_IMAGES = 512  # of the held-out images, those that are measured


def held_out_of(plan: Plan, images: ImageSet, trainer: Trainer, statistics: Statistics) -> HeldOut:
    """`HELD_OUT_IMAGES` of the images, with angles from where training draws them."""
    rows = spread(torch.arange(len(images)), HELD_OUT_IMAGES)
    data = statistics.standardise(images.images[rows].to(plan.device)) * plan.config.data_std
    labels = None if images.labels is None else images.labels[rows].to(plan.device)
    return HeldOut.of(data, trainer.potential.angle_range, labels, angles=trainer.angles, seed=plan.config.seed)


def sample_accuracy(samples: Tensor, real: Tensor) -> float:
    """How well a 1-nearest-neighbour classifier tells samples from as many real images, by their pixels.

    0.5 is perfect, 1 hopeless; of so few images as a grid's it is good to about 0.05. NaN if there are too few.
    """
    count = min(len(samples), len(real))
    if count < FEWEST:
        return math.nan
    return compare(samples[:count].flatten(1), real[:count].flatten(1)).accuracy


def spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, at equal distances: folders are sorted by class."""
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most) * len(rows) // most]
