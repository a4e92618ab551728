"""Fitting the reference of the multi-scale score: training images are read and remembered."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpfb_core.errors import DataError
from vpfb_core.machine import noise
from vpfb_core.model.reference import Neighbourhood, Readings, Reference
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.ood.readings import levels_of, read, read_all, scalar_level

IMAGES = 2_500  # training images that are read, unless told otherwise; 1,000 told fewer outliers from clothes


def fit_reference(
    model: TrainedModel,
    images: Tensor,
    *,
    seed: int = 0,
    count: int = IMAGES,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Reference:
    """Read training images and remember them, at eleven gradients per image.

    Args:
        images: of the training set, uint8 or in [0, 1], (N, C, H, W) of the model's shape, N ≥ 2.
        seed: which of them are read, if there are more than `count`.
        count: how many are read.
        batch_size: images computed at once.
        on_batch: called with the number of images that have been read.
    Raises:
        DataError: fewer than two images, or readings that are not finite.
        ConfigError: a method without an energy, or a field without a class that was not trained.
    """
    model.require("energy", "an out-of-distribution reference")
    model.require_null("an out-of-distribution reference")
    if len(images) < 2:
        raise DataError(
            f"{len(images)} image is too few to tell which images are unusual", hint="at least 2 are needed"
        )
    order = torch.randperm(len(images), generator=noise.generator(seed, "reference"))
    rows = order[:count].sort().values
    levels, scalar = levels_of(model.field), scalar_level(model.field)
    parts: list[Readings] = []
    energies: list[Tensor] = []
    for chosen in rows.split(batch_size):
        data = model.standardise(images[chosen])
        parts.append(read_all(model.field, data, levels))
        energies.append(read(model.field, data, scalar).energy.cpu().double())
        if on_batch is not None:
            on_batch(sum(len(part.scalars) for part in parts))
    scalars, features = (torch.cat(tables) for tables in zip(*parts, strict=True))
    if not (scalars.isfinite().all() and features.isfinite().all()):
        raise DataError("the model's energies of its training images are not finite", hint="it may have diverged")
    return Reference(
        levels=levels,
        typical_energy=float(torch.cat(energies).mean()),
        scalars=Neighbourhood.of(scalars),
        features=Neighbourhood.of(features) if features.shape[1] else None,
    )
