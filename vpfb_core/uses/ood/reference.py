"""How training images read: the density that the multi-scale score compares with, kept in the checkpoint.

Readings of training images are whitened and a choice of them is remembered; how far an image's nearest neighbours among
them are says how unusual it is. This is done twice, for what the potential says (energies and score norms, as MSMA,
Mahmood et al. 2021, arXiv 2010.13132) and for what the network sees (its coarsest layer): the first notices how an
image is drawn, the second what it shows, and each misses strangers that the other finds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpfb_core.errors import CheckpointError, DataError
from vpfb_core.machine import noise
from vpfb_core.uses.ood.readings import Readings, levels_of, read, read_all, scalar_level

if TYPE_CHECKING:
    from collections.abc import Callable

    from vpfb_core.model.trained import Model

IMAGES = 2_500  # training images that are read, unless told otherwise; 1,000 told fewer strangers from clothes
AXES = 64  # principal directions kept, at most
NEIGHBOURS = 5
# How much it counts that neighbours stand apart themselves: 0 is their plain distance, 1 the local outlier factor
# (Breunig et al. 2000). Some kinds of image vary more than others; half was best in the worst case.
CROWDING = 0.5
# Of the features in the sum: counted twice, they found more of the strangers than counted once in eight of nine pairs
# that were measured, most of them strangers made from members.
FEATURE_WEIGHT = 2
_FLOOR = 1e-3  # of distances, in whitened units: exact copies among the images are no evidence of a finer scale
_NARROWEST = 0.05  # of the spread of log distances, for sets whose images are all alike


@dataclass(frozen=True)
class Neighbourhood:
    """A whitened space with remembered points.

    Attributes:
        mean: of the readings, (F,).
        axes: maps a centred reading to the space, where the readings have about unit variance, (F, K).
        points: of the training images, (M, K).
        spacing: log distance of each of them from its neighbours, (M,).
        typical: mean and standard deviation of `_oddity` over the training images, (2,).
    """

    mean: Tensor
    axes: Tensor
    points: Tensor
    spacing: Tensor
    typical: Tensor

    @classmethod
    def of(cls, readings: Tensor) -> Neighbourhood:
        """From the readings of training images, (M, F), M ≥ 2."""
        readings = readings.double()
        mean, scale = readings.mean(0), readings.std(0, correction=0)
        scale = scale.clamp(min=1e-6 * float(readings.abs().max()) + 1e-12)
        centred = (readings - mean) / scale
        variances, directions = torch.linalg.eigh(shrunk_covariance(centred))
        kept = slice(-min(AXES, len(variances)), None)
        axes = directions[:, kept] / variances[kept].clamp(min=1e-6).sqrt() / scale[:, None]
        points = ((readings - mean) @ axes).float()
        nearest = min(NEIGHBOURS, len(points) - 1) + 1
        distances, rows = torch.cdist(points, points).topk(nearest, largest=False)
        distances, rows = distances[:, 1:], rows[:, 1:]  # without the point itself
        spacing = _log_mean(distances)
        oddity = _oddity(distances, spacing[rows])
        typical = torch.stack([oddity.mean(), oddity.std(correction=0).clamp(min=_NARROWEST)])
        return cls(mean.float(), axes.float(), points, spacing, typical)

    def strangeness(self, readings: Tensor) -> Tensor:
        """How far readings (N, F) are from their neighbours, in standard units, (N,).

        0 is the mean and 1 the deviation of training images.
        """
        if readings.shape[1] != len(self.mean):
            raise CheckpointError(
                f"the model reads {readings.shape[1]} figures of an image, its reference knows {len(self.mean)}",
                hint="vpfb info --calibrate MODEL makes it anew",
            )
        points = ((readings.double() - self.mean.double()) @ self.axes.double()).float()
        nearest = min(NEIGHBOURS, len(self.points))
        distances, rows = torch.cdist(points, self.points).topk(nearest, largest=False)
        return (_oddity(distances, self.spacing[rows]) - self.typical[0]) / self.typical[1]


def _oddity(distances: Tensor, spacing: Tensor) -> Tensor:
    """Log distance from the neighbours, less a share of theirs from their own; both (N, k) → (N,)."""
    return _log_mean(distances) - CROWDING * spacing.mean(1)


def _log_mean(distances: Tensor) -> Tensor:
    return distances.mean(1).clamp(min=_FLOOR).log()


@dataclass(frozen=True)
class Reference:
    """What is known of the training images.

    Attributes:
        levels: noise-to-signal ratios cot φ at which images are read.
        typical_energy: mean energy of training images at `readings.scalar_level`, nats up to C(φ).
        scalars: of energies and log score norms.
        features: of the network's coarsest layer; None if it has none.
    """

    levels: tuple[float, ...]
    typical_energy: float
    scalars: Neighbourhood
    features: Neighbourhood | None

    def strangeness(self, readings: Readings) -> Tensor:
        """The multi-scale score of N images: the weighted sum of both, higher is more out-of-distribution, (N,)."""
        total = self.scalars.strangeness(readings.scalars)
        if self.features is None:
            return total
        return total + FEATURE_WEIGHT * self.features.strangeness(readings.features)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, as a checkpoint keeps it."""
        tensors = {
            "levels": torch.tensor(self.levels, dtype=torch.float64),
            "typical_energy": torch.tensor(self.typical_energy, dtype=torch.float64),
        }
        for name, part in (("scalars", self.scalars), ("features", self.features)):
            if part is not None:
                tensors |= {f"{name}/{field.name}": getattr(part, field.name) for field in fields(part)}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Reference:
        """The inverse of `tensors`. Raises KeyError or ValueError if something is missing or does not fit."""

        if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("the reference holds what is no finite number")
        if tensors["levels"].ndim != 1 or tensors["typical_energy"].ndim != 0 or not (tensors["levels"] > 0).all():
            raise ValueError("the reference's levels are no levels")

        def part(name: str) -> Neighbourhood:
            found = Neighbourhood(**{field.name: tensors[f"{name}/{field.name}"] for field in fields(Neighbourhood)})
            if [tensor.ndim for tensor in (found.mean, found.axes, found.points)] != [1, 2, 2]:
                raise ValueError(f"the reference's {name} have the wrong dimensions")
            (_, axes), (points, width) = found.axes.shape, found.points.shape
            if axes != width or found.mean.shape != found.axes.shape[:1] or not points:
                raise ValueError(f"the reference's {name} do not fit each other")
            if found.spacing.shape != (points,) or found.typical.shape != (2,):
                raise ValueError(f"the reference's {name} lack some distances")
            return found

        levels = tuple(tensors["levels"].tolist())
        with_features = any(name.startswith("features/") for name in tensors)
        reference = cls(
            levels, float(tensors["typical_energy"]), part("scalars"), part("features") if with_features else None
        )
        if len(reference.scalars.mean) != 2 * len(levels):
            raise ValueError(f"the reference has {len(reference.scalars.mean)} readings of {len(levels)} levels")
        return reference


def fit_reference(
    model: Model,
    images: Tensor,
    *,
    seed: int = 0,
    count: int = IMAGES,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Reference:
    """Read training images and remember them. Eleven gradients an image.

    Args:
        images: of the training set, uint8 or in [0, 1], (N, C, H, W) of the model's shape, N ≥ 2.
        seed: which of them are read, if there are more than `count`.
        count: how many are read.
        batch_size: images at once.
        on_batch: hears how many images have been read.
    Raises:
        DataError: fewer than two images, or readings that are not finite.
    """
    if len(images) < 2:
        raise DataError(
            f"{len(images)} image is too few to tell which images are unusual", hint="at least 2 are needed"
        )
    order = torch.randperm(len(images), generator=noise.generator(seed, "reference"))
    rows = order[:count].sort().values
    levels, scalar = levels_of(model.potential), scalar_level(model.potential)
    parts: list[Readings] = []
    energies: list[Tensor] = []
    for chosen in rows.split(batch_size):
        z = model.arc_data(images[chosen])
        parts.append(read_all(model.potential, z, levels))
        energies.append(read(model.potential, z, scalar).energy.cpu().double())
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


def shrunk_covariance(centred: Tensor) -> Tensor:
    """The covariance of M centred points (M, F), drawn towards a multiple of the identity: Ledoit and Wolf 2004.

    Journal of Multivariate Analysis 88:365. It is what makes few points usable in many dimensions.
    """
    count, dimension = centred.shape
    covariance = centred.T @ centred / count
    target = torch.eye(dimension, dtype=centred.dtype) * covariance.diagonal().mean()
    apart = (covariance - target).square().sum()
    error = (centred.square().sum(1).square().mean() - covariance.square().sum()) / count
    share = min(1.0, float(error / apart)) if apart > 0 else 0.0
    return (1 - share) * covariance + share * target
