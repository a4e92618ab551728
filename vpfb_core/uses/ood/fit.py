"""The fit of the reference of the multi-scale score to training images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpfb_core.errors import DataError
from vpfb_core.machine import noise
from vpfb_core.model.reference import Descriptors, Neighbourhood, Reference
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.ood.descriptors import describe, describe_all, levels_of, scalar_level

IMAGES = 2_500  # the default number of training images; a Fashion-MNIST model detected fewer outliers with 1,000


def fit_reference(
    model: TrainedModel,
    images: Tensor,
    *,
    seed: int = 0,
    count: int = IMAGES,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Reference:
    """The reference of a model, from descriptors of its training images. It costs eleven gradients per image.

    Args:
        model: the model.
        images: training images, uint8 or in [0, 1], (N, C, H, W) in the model's shape, N ≥ 2.
        seed: the seed of the choice of images, if there are more than `count`.
        count: the largest number of images that are used.
        batch_size: the number of images that are computed at once.
        on_batch: called with the number of images that are done.
    Raises:
        DataError: there are fewer than two images, or a descriptor is not finite.
        ConfigError: the method has no energy, or the unconditional field was not trained.
    """
    model.require("energy", "an out-of-distribution reference")
    model.require_null("an out-of-distribution reference")
    if len(images) < 2:
        raise DataError(
            f"an out-of-distribution reference cannot be fitted to {len(images)} image(s)", hint="it needs at least 2"
        )
    order = torch.randperm(len(images), generator=noise.generator(seed, "reference"))
    rows = order[:count].sort().values
    levels, scalar = levels_of(model.field), scalar_level(model.field)
    parts: list[Descriptors] = []
    energies: list[Tensor] = []
    for chosen in rows.split(batch_size):
        data = model.standardise(images[chosen])
        parts.append(describe_all(model.field, data, levels))
        energies.append(describe(model.field, data, scalar).energy.cpu().double())
        if on_batch is not None:
            on_batch(sum(len(part.scalars) for part in parts))
    scalars, features = (torch.cat(tables) for tables in zip(*parts, strict=True))
    if not (scalars.isfinite().all() and features.isfinite().all()):
        raise DataError(
            "the model's energies of its training images are not finite", hint="the training may have diverged"
        )
    return Reference(
        levels=levels,
        typical_energy=float(torch.cat(energies).mean()),
        scalars=Neighbourhood.of(scalars),
        features=Neighbourhood.of(features) if features.shape[1] else None,
    )
