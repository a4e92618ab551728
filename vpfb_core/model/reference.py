"""The reference of the multi-scale out-of-distribution score: descriptors of training images in a model.

The score of an image is the log distance of its descriptors from their nearest neighbours among those of training
images, in a whitened space. There are two kinds of descriptors. The scalars are energies and score norms at several
noise levels (MSMA, Mahmood et al. 2021, arXiv 2010.13132), which respond to the style and the details of an image. The
features are those of a layer of the network, which respond to its content. Each kind finds outliers that the other
misses, and the score is their weighted sum.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.errors import CheckpointError

AXES = 64  # the largest number of principal directions
NEIGHBOURS = 5
# The weight of the neighbours' own spacing: 0 gives the plain distance, 1 the local outlier factor (Breunig et al.
# 2000). It corrects for kinds of images that vary more than others. 0.5 was the best value in the worst case.
SPACING_WEIGHT = 0.5
# The weight of the features in the sum. With 2 the score found more outliers than with 1 in eight of nine pairs of data
# sets, most of which have outliers that were made from in-distribution images.
FEATURE_WEIGHT = 2
_SMALLEST_DISTANCE = 1e-3  # in whitened units, so that duplicate images do not have a log distance of minus infinity
_SMALLEST_SPREAD = 0.05  # of the log distances, for sets of almost equal images


class Descriptors(NamedTuple):
    """The descriptors of N images at the reference levels, on the CPU.

    Attributes:
        scalars: energies and logarithms of score norms, (N, 2 · levels).
        features: statistics of the network's feature layer, (N, F); F = 0 if it has no such layer.
    """

    scalars: Tensor
    features: Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """A whitened space of descriptors with the points of training images.

    Attributes:
        mean: the mean of the descriptors, (F,).
        axes: maps centred descriptors to the space, where they have about unit variance, (F, K).
        points: the points of the training images, (M, K).
        spacing: the log distance of each of these points from its neighbours, (M,).
        typical: the mean and the standard deviation of the relative log distance of the training images, (2,).
    """

    mean: Tensor
    axes: Tensor
    points: Tensor
    spacing: Tensor
    typical: Tensor

    @classmethod
    def of(cls, descriptors: Tensor) -> Neighbourhood:
        """The neighbourhood of training images with these descriptors, (M, F), M ≥ 2."""
        descriptors = descriptors.double()
        mean, scale = descriptors.mean(0), descriptors.std(0, correction=0)
        scale = scale.clamp(min=1e-6 * float(descriptors.abs().max()) + 1e-12)
        centred = (descriptors - mean) / scale
        variances, directions = torch.linalg.eigh(shrunk_covariance(centred))
        kept = slice(-min(AXES, len(variances)), None)
        axes = directions[:, kept] / variances[kept].clamp(min=1e-6).sqrt() / scale[:, None]
        points = ((descriptors - mean) @ axes).float()
        nearest = min(NEIGHBOURS, len(points) - 1) + 1
        distances, rows = torch.cdist(points, points).topk(nearest, largest=False)
        distances, rows = distances[:, 1:], rows[:, 1:]  # without the point itself
        spacing = _log_mean(distances)
        relative = _relative_log_distance(distances, spacing[rows])
        typical = torch.stack([relative.mean(), relative.std(correction=0).clamp(min=_SMALLEST_SPREAD)])
        return cls(mean.float(), axes.float(), points, spacing, typical)

    def outlier_score(self, descriptors: Tensor) -> Tensor:
        """The standardised log distance of descriptors (N, F) from the training images, (N,).

        Training images have mean 0 and standard deviation 1. Higher is more out-of-distribution.

        Raises:
            CheckpointError: the descriptors have another dimension than those of the training images.
        """
        if descriptors.shape[1] != len(self.mean):
            raise CheckpointError(
                f"the model computes {descriptors.shape[1]} descriptors per image, but its reference has "
                f"{len(self.mean)}",
                hint="fit the reference again with vpfb info --calibrate MODEL",
            )
        points = ((descriptors.double() - self.mean.double()) @ self.axes.double()).float()
        nearest = min(NEIGHBOURS, len(self.points))
        distances, rows = torch.cdist(points, self.points).topk(nearest, largest=False)
        return (_relative_log_distance(distances, self.spacing[rows]) - self.typical[0]) / self.typical[1]


def _relative_log_distance(distances: Tensor, spacing: Tensor) -> Tensor:
    """The log distance (N,) from k neighbours at `distances` (N, k), relative to their own `spacing` (N, k)."""
    return _log_mean(distances) - SPACING_WEIGHT * spacing.mean(1)


def _log_mean(distances: Tensor) -> Tensor:
    """The logarithm of the mean distance, (N, k) → (N,)."""
    return distances.mean(1).clamp(min=_SMALLEST_DISTANCE).log()


@dataclass(frozen=True)
class Reference:
    """The reference of a model: descriptors of its training images.

    Attributes:
        levels: the noise levels of the descriptors.
        typical_energy: the mean energy of training images at the level of the scalar scores, in nats up to a constant.
        scalars: the neighbourhood of energies and log score norms.
        features: the neighbourhood of the features; None if the network has no feature layer.
    """

    levels: tuple[float, ...]
    typical_energy: float
    scalars: Neighbourhood
    features: Neighbourhood | None

    def outlier_score(self, descriptors: Descriptors) -> Tensor:
        """The multi-scale score of N images, (N,). Higher is more out-of-distribution."""
        total = self.scalars.outlier_score(descriptors.scalars)
        if self.features is None:
            return total
        return total + FEATURE_WEIGHT * self.features.outlier_score(descriptors.features)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the reference by name, for a model file."""
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
        """The reference with these tensors.

        Raises:
            KeyError, ValueError: a tensor is missing or does not fit the others.
        """
        if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("the reference contains numbers that are not finite")
        if tensors["levels"].ndim != 1 or tensors["typical_energy"].ndim != 0 or not (tensors["levels"] >= 0).all():
            raise ValueError("the levels of the reference are not numbers from 0 on")

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
            raise ValueError(f"the reference has {len(reference.scalars.mean)} scalars for {len(levels)} levels")
        return reference


def shrunk_covariance(centred: Tensor) -> Tensor:
    """The covariance (F, F) of M centred points (M, F), shrunk towards a multiple of the identity.

    Shrinkage makes the covariance of few points in many dimensions usable (Ledoit and Wolf 2004, Journal of
    Multivariate Analysis 88:365).
    """
    count, dimension = centred.shape
    covariance = centred.T @ centred / count
    target = torch.eye(dimension, dtype=centred.dtype) * covariance.diagonal().mean()
    apart = (covariance - target).square().sum()
    error = (centred.square().sum(1).square().mean() - covariance.square().sum()) / count
    share = min(1.0, float(error / apart)) if apart > 0 else 0.0
    return (1 - share) * covariance + share * target
