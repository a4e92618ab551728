"""What a trained model still needs to be used for more than samples: figures that are measured, not learned.

Constants make its energies densities; the reference, how training images read, makes them comparable with other images.
Both are kept in the model, so that scoring a picture needs no training set.
"""

from __future__ import annotations

import math

import torch

from vpfb_core import methods
from vpfb_core.data import ImageSet, Source
from vpfb_core.errors import DataError
from vpfb_core.machine import noise
from vpfb_core.methods.base import Validation
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.density import dequantised
from vpfb_core.uses.ood import fit
from vpfb_core.uses.ood.descriptors import LEVELS

IMAGES = 4096  # of the data that are looked at, at most: enough for some of each class
VALUES = 2**27  # numbers in all of them, at most
BATCH = 64
SHARE = 0.1  # of the work of a training run that calibration takes, at most
STEP_COST = 7  # gradients that a training step is worth, per image: two points, each differentiated twice
READING_COST = len(LEVELS) + 1  # gradients per image of the reference
_LEAST_IMAGES = 50  # with fewer, the reference would be worthless


def affordable(images: int) -> int:
    """Gradients to spend on calibrating a run that has drawn this many images."""
    return int(SHARE * STEP_COST * images)


def full_cost(model: TrainedModel) -> int:
    """Gradients that full calibration takes."""
    if not methods.gives(model.method.name, "energy"):
        return 0
    reference = fit.IMAGES * READING_COST if model.field.has_null else 0
    return model.method.calibration_cost(model.field, model.data_shape.classes) + reference


def calibrate(
    model: TrainedModel, source: Source, seed: int = 0, gradients: int | None = None, batch_size: int = BATCH
) -> None:
    """Estimate the constants of a model and fit its reference on data that it was trained on; keep both in it.

    A model without an energy needs neither, and one whose field without a class is not trained no reference.

    Args:
        source: of the model's shape and, if it is conditional, with its condition groups.
        seed: of the choice of images and of the noise.
        gradients: about as many as may be spent, up to two thirds of them on the reference. What cannot be done well
            with them is left out. None spends `full_cost`.
        batch_size: images computed at once.
    Raises:
        DataError: images of another shape or with other classes.
        DivergedError: the energy is not finite.
    """
    if tuple(source.shape) != tuple(model.shape):
        raise DataError(f"{source.name} has images of shape {tuple(source.shape)}, the model of {tuple(model.shape)}")
    if model.groups and source.groups != model.groups:
        raise DataError(f"{source.name} does not have the classes of the model", hint="name the data it was trained on")
    if not methods.gives(model.method.name, "energy"):
        return
    chosen = _shuffled(source, seed)
    count, rest = fit.IMAGES if model.field.has_null else 0, None
    if gradients is not None:
        count = min(count, 2 * gradients // (3 * READING_COST))
        rest = gradients - count * READING_COST
    labels = None if chosen.labels is None or not model.groups else chosen.labels
    data = model.standardise(dequantised(chosen.images, seed))
    found = model.method.calibrate(
        model.field, Validation(data, labels, seed), model.data_shape.classes, rest, batch_size
    )
    model.calibration = found or model.calibration
    if count >= _LEAST_IMAGES and len(chosen) > 1:
        model.reference = fit.fit_reference(model, chosen.images, seed=seed, count=count, batch_size=batch_size)


def _shuffled(source: Source, seed: int) -> ImageSet:
    """At most `IMAGES` of the images, in random order."""
    order = torch.randperm(len(source), generator=noise.generator(seed, "calibration images"))
    return source.subset(order[: min(IMAGES, VALUES // math.prod(source.shape))])
