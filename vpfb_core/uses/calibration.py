"""What a trained potential still needs to be used for more than samples: figures that are measured, not learned.

The normaliser makes its energies densities; the reference, how training images read, makes them comparable with other
images. Both are kept in the model, so that scoring a picture needs no training set.
"""

from __future__ import annotations

import math

import torch

from vpfb_core.data import ImageSet, Source
from vpfb_core.errors import DataError
from vpfb_core.machine import noise
from vpfb_core.methods.vpfb import calibration, normaliser
from vpfb_core.model.trained import Model
from vpfb_core.uses.ood import reference
from vpfb_core.uses.ood.readings import LEVELS

IMAGES = 4096  # of the data that are looked at, at most: enough for some of each class
VALUES = 2**27  # in all of them, at most
BATCH = 64
SHARE = 0.1  # of the work of a training run that finishing it takes, at most
STEP_COST = 7  # gradients of N that a training step is worth, an image: two points, each differentiated twice
CLASS_COST = 1.5  # of a point of a class, in points without one: eight values of N for two gradients
ANCHOR_COST = 300  # gradients of N that a point of the anchor takes: a hundred evaluations, each with the divergence
READING_COST = len(LEVELS) + 1  # gradients of N that an image of the reference takes
_LEAST_EFFORT, _LEAST_IMAGES = 0.03, 50  # with less, the figures would be worthless


def affordable(images: int) -> int:
    """Gradients of N to spend on finishing a run that has drawn so many images."""
    return int(SHARE * STEP_COST * images)


def full_cost(model: Model) -> int:
    """Gradients of N that it takes with all care."""
    return _calibration_cost(model) + reference.IMAGES * READING_COST


def finish(model: Model, images: Source, seed: int = 0, gradients: int | None = None, batch_size: int = BATCH) -> None:
    """Calibrate a model and fit its reference on images that it was trained on; keep both in it.

    Args:
        images: of the model's shape and, if it is conditional, with its condition groups.
        seed: of the choice of images and of the noise.
        gradients: of N, about as many as may be spent, up to two thirds of them on the reference. What cannot be done
            well with them is left out. None spends `full_cost`.
        batch_size: points of the arc at once.
    Raises:
        DataError: images of another shape or with other classes.
        DivergedError: the potential is not finite.
    """
    if tuple(images.shape) != model.shape:
        raise DataError(f"{images.name} has images of shape {tuple(images.shape)}, the model of {model.shape}")
    if model.groups and images.groups != model.groups:
        raise DataError(f"{images.name} does not have the classes of the model", hint="name the data it was trained on")
    chosen = _shuffled(images, seed)
    count, effort = reference.IMAGES, 1.0
    if gradients is not None:
        count = min(count, 2 * gradients // (3 * READING_COST))
        effort = min(effort, (gradients - count * READING_COST) / _calibration_cost(model))
    if effort >= _LEAST_EFFORT:
        labels = None if chosen.labels is None or not model.groups else chosen.labels
        model.calibrate(
            chosen.images,
            labels,
            seed=seed,
            points=round(effort * calibration.POINTS),
            class_points=max(4, round(effort * calibration.CLASS_POINTS)),
            anchor_points=max(4, round(effort * calibration.ANCHOR_POINTS)),
            batch_size=batch_size,
        )
    if count >= _LEAST_IMAGES and len(chosen) > 1:
        model.reference = reference.fit_reference(model, chosen.images, seed=seed, count=count, batch_size=batch_size)


def _shuffled(images: Source, seed: int) -> ImageSet:
    """At most `IMAGES` of the images, in random order."""
    order = torch.randperm(len(images), generator=noise.generator(seed, "calibration images"))
    return images.subset(order[: min(IMAGES, VALUES // math.prod(images.shape))])


def _calibration_cost(model: Model) -> int:
    classes = sum(len(group.classes) for group in model.groups)
    points = calibration.POINTS + round(CLASS_COST * classes * calibration.CLASS_POINTS)
    return 2 * len(normaliser.levels(model.potential)) * points + ANCHOR_COST * calibration.ANCHOR_POINTS
