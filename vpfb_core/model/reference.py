"""The training images as a model remembers them: what the multi-scale out-of-distribution score compares with.

Readings of training images are whitened and some of them are remembered; the distances of an image from its nearest
neighbours among them say how unusual it is. This is done twice, for what the energy says (energies and score norms, as
MSMA, Mahmood et al. 2021, arXiv 2010.13132) and for what the network sees (its feature layer): the first notices how an
image is drawn, the second what it shows, and each misses outliers that the other finds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.errors import CheckpointError

AXES = 64  # principal directions that are kept, at most
NEIGHBOURS = 5
# How much it counts that neighbours stand apart themselves: 0 is their plain distance, 1 the local outlier factor
# (Breunig et al. 2000). Some kinds of image vary more than others; half was best in the worst case.
CROWDING = 0.5
# Weight of the features in the sum: counted twice, they found more of the outliers than counted once in eight of nine
# pairs that were measured, most of them outliers made from in-distribution images.
FEATURE_WEIGHT = 2
_FLOOR = 1e-3  # of distances, in whitened units: exact copies among the images are no evidence of a finer scale
_NARROWEST = 0.05  # of the spread of log distances, for sets whose images are all alike


class Readings(NamedTuple):
    """What a model reads of N images at its reference levels, on the CPU."""

    scalars: Tensor  # energies and log score norms, (N, 2 · levels)
    features: Tensor  # of the network's feature layer, (N, F); F = 0 if it has none


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
        """The neighbourhood of the readings of training images, (M, F), M ≥ 2."""
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

        0 is the mean and 1 the standard deviation of training images.
        """
        if readings.shape[1] != len(self.mean):
            raise CheckpointError(
                f"the model reads {readings.shape[1]} numbers per image, but its reference has {len(self.mean)}",
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
    """What is remembered of the training images.

    Attributes:
        levels: noise levels at which images are read.
        typical_energy: mean energy of training images at the level of the scalar scores, nats up to a constant.
        scalars: of energies and log score norms.
        features: of the network's feature layer; None if it has none.
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
        """All of it by name, as a model file keeps it."""
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
            raise ValueError("the reference holds numbers that are not finite")
        if tensors["levels"].ndim != 1 or tensors["typical_energy"].ndim != 0 or not (tensors["levels"] > 0).all():
            raise ValueError("the levels of the reference are not positive numbers")

        def part(name: str) -> Neighbourhood:
            found = Neighbourhood(**{field.name: tensors[f"{name}/{field.name}"] for field in fields(Neighbourhood)})
            if [tensor.ndim for tensor in (found.mean, found.axes, found.points)] != [1, 2, 2]:
                raise ValueError(f"the {name} of the reference have the wrong dimensions")
            (_, axes), (points, width) = found.axes.shape, found.points.shape
            if axes != width or found.mean.shape != found.axes.shape[:1] or not points:
                raise ValueError(f"the {name} of the reference do not fit each other")
            if found.spacing.shape != (points,) or found.typical.shape != (2,):
                raise ValueError(f"the {name} of the reference lack some distances")
            return found

        levels = tuple(tensors["levels"].tolist())
        with_features = any(name.startswith("features/") for name in tensors)
        reference = cls(
            levels, float(tensors["typical_energy"]), part("scalars"), part("features") if with_features else None
        )
        if len(reference.scalars.mean) != 2 * len(levels):
            raise ValueError(f"the reference has {len(reference.scalars.mean)} readings of {len(levels)} levels")
        return reference


def shrunk_covariance(centred: Tensor) -> Tensor:
    """The covariance of M centred points (M, F), shrunk towards a multiple of the identity: Ledoit and Wolf 2004.

    Journal of Multivariate Analysis 88:365. It is what makes few points usable in many dimensions.
    """
    count, dimension = centred.shape
    covariance = centred.T @ centred / count
    target = torch.eye(dimension, dtype=centred.dtype) * covariance.diagonal().mean()
    apart = (covariance - target).square().sum()
    error = (centred.square().sum(1).square().mean() - covariance.square().sum()) / count
    share = min(1.0, float(error / apart)) if apart > 0 else 0.0
    return (1 - share) * covariance + share * target
