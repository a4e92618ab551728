"""How far images are from the images of a reference, by nearest neighbours in a space of descriptors.

The statistic of an image is the log distance of its descriptors from their nearest neighbours among those of the
reference images. A reference image is left out of its own neighbours, so that the statistics of reference images are a
null distribution, and training images are assessed like others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.errors import CheckpointError

AXES = 64  # the largest number of principal directions
# With 8, fewer outliers were found in small folders, and new images looked less typical than reference images, to which
# axes are fitted.
_POINTS_PER_AXIS = 32
_FLOOR = 0.1  # of the variance in any direction, as a share of the mean variance
NEIGHBOURS = 10
NEAREST = 3  # the number of neighbours that a verdict names
# The weight of the neighbours' own spacing: 0 gives the plain distance, 1 the local outlier factor (Breunig et al.
# 2000). It corrects for kinds of images that vary more than others, but outliers far from the reference often have
# neighbours of wide spacing.
SPACING_WEIGHT = 0.25
ROBUST_SHARE = 0.9  # the share of the reference images, the most typical ones, that defines the space
TAIL = 0.25  # the share of the reference images that are in the tail, whose p-values are exponential
_LARGEST = torch.finfo(torch.half).max
_SMALLEST_DISTANCE = 1e-3  # in whitened units, so that duplicate images do not have a log distance of minus infinity
_SMALLEST_SPREAD = 0.1  # of the statistics in the tail, for sets of almost equal images


@dataclass(frozen=True, eq=False)
class NullDistribution:
    """The distribution of a statistic among the images of a reference.

    Attributes:
        values: the statistic of each reference image, (M,).
    """

    values: Tensor

    @cached_property
    def _ordered(self) -> Tensor:
        return self.values.double().sort().values

    @cached_property
    def _tail(self) -> tuple[float, float]:
        """Where the tail begins, and its scale.

        The scale is the maximum likelihood of an exponential tail of which the highest statistics are only known to be
        beyond the share `ROBUST_SHARE`. They may be those of outliers, and how high they are is ignored.
        """
        start, end = (float(self._ordered.quantile(share, interpolation="lower")) for share in (1 - TAIL, ROBUST_SHARE))
        excess = (self._ordered[self._ordered > start] - start).clamp(max=end - start)
        known = max(1, int((excess < end - start).sum()))
        return start, max(float(excess.sum()) / known, _SMALLEST_SPREAD)

    def surprise(self, statistics: Tensor) -> Tensor:
        """The negative logarithms of the p-values of statistics (N,), float64 (N,).

        The p-value is the share of reference images that have at least this statistic, or in the tail that of the
        exponential tail if it is smaller. The first is exact if all reference images are in-distribution. The second
        also finds outliers among them.
        """
        statistics = statistics.double().contiguous()
        not_below = len(self._ordered) - torch.searchsorted(self._ordered, statistics)
        body = -((1 + not_below) / (1 + len(self._ordered))).log()
        start, scale = self._tail
        tail = (statistics - start) / scale - torch.tensor(TAIL).log()
        return torch.where(statistics > start, torch.maximum(tail, body), body)


class Neighbours(NamedTuple):
    """The neighbours of N images.

    Attributes:
        statistic: how unusual they are, (N,), such as the log distance from their neighbours less a quarter of the own
            one of these.
        nearest: the indices of the reference images that are nearest along the axes, nearest first, int64 (N, K).
    """

    statistic: Tensor
    nearest: Tensor


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A space of descriptors with the points of M reference images.

    A point has coordinates along the principal axes and a last one, the distance from the space of the axes.

    Attributes:
        mean: the mean of the descriptors, (F,).
        unit: the unit of each descriptor, (F,).
        axes: the principal axes of the descriptors, (F, K).
        stretch: what the K coordinates and the last one are multiplied with, (K + 1,).
        points: the points of the reference images, (M, K + 1).
    """

    mean: Tensor
    unit: Tensor
    axes: Tensor
    stretch: Tensor
    points: Tensor

    @classmethod
    def of(cls, descriptors: Tensor, unit: Tensor | None = None) -> Neighbourhood:
        """The neighbourhood of reference images with these descriptors, (M, F), M ≥ 2.

        The least typical of them do not define the space.

        Args:
            descriptors: (M, F).
            unit: the unit of each descriptor, (F,); None if all have the same one.
        """
        unit = torch.ones(descriptors.shape[1]) if unit is None else unit.float()
        first = cls._of(descriptors, descriptors, unit)
        kept = first.leave_one_out.statistic.argsort()[: max(2, round(ROBUST_SHARE * len(descriptors)))]
        return cls._of(descriptors, descriptors[kept], unit)

    @classmethod
    def _of(cls, descriptors: Tensor, typical: Tensor, unit: Tensor) -> Neighbourhood:
        """The neighbourhood of reference images in the space that some of them, the typical ones, define."""
        mean = typical.double().mean(0).float()
        centred = (typical - mean) / unit
        variances, axes = principal_axes(centred)
        axes = axes.half().float()  # as they are in a file
        total, (dimension, count) = float(centred.square().sum()) / len(typical), axes.shape
        rest = max(total - float(variances.sum()), 0.0) / max(dimension - count, 1)
        variances = torch.cat([variances, torch.tensor([rest])]) + _FLOOR * total / dimension
        empty = cls(mean, unit, axes, variances.clamp(min=1e-6).rsqrt(), axes.new_empty(0, count + 1))
        return replace(empty, points=empty._project(descriptors))

    def _project(self, descriptors: Tensor) -> Tensor:
        """The points (N, K + 1) of descriptors (N, F), with the precision that they have in a file."""
        centred = (descriptors.float() - self.mean) / self.unit
        along = centred @ self.axes
        outside = (centred - along @ self.axes.T).norm(dim=1, keepdim=True)
        points = torch.cat([along, outside], 1) * self.stretch
        return points.clamp(-_LARGEST, _LARGEST).half().float()

    def __len__(self) -> int:
        return len(self.points)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a model file."""
        return {
            "mean": self.mean, "unit": self.unit, "stretch": self.stretch,
            "axes": self.axes.half(), "points": self.points.half(),
        }  # fmt: skip

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Neighbourhood:
        """The neighbourhood with these tensors.

        Raises:
            KeyError, ValueError: a tensor is missing or does not fit the others.
        """
        mean, unit, axes, stretch, points = (
            tensors[name].float() for name in ("mean", "unit", "axes", "stretch", "points")
        )
        if [mean.ndim, axes.ndim, points.ndim] != [1, 2, 2] or len(points) < 2:
            raise ValueError("the tensors of a neighbourhood have the wrong dimensions")
        width = axes.shape[1] + 1
        if (
            not (axes.shape[:1] == mean.shape == unit.shape and (unit > 0).all())
            or stretch.shape != (width,)
            or points.shape[1] != width
        ):
            raise ValueError("the tensors of a neighbourhood do not fit each other")
        return cls(mean, unit, axes, stretch, points)

    @cached_property
    def leave_one_out(self) -> Neighbours:
        """The neighbours of the reference images, each of which is left out of its own."""
        return self._judged(*self._among_themselves)

    @cached_property
    def null(self) -> NullDistribution:
        """The distribution of the statistic among reference images."""
        return NullDistribution(self.leave_one_out.statistic)

    @cached_property
    def _spacing(self) -> Tensor:
        """The log distance of each reference image from its neighbours, (M,)."""
        return _log_mean(self._among_themselves[0])

    @cached_property
    def _among_themselves(self) -> tuple[Tensor, Tensor]:
        """`_distances` of the reference images, each of which is left out of its own neighbours."""
        return self._distances(self.points, torch.arange(len(self.points)))

    def neighbours(self, descriptors: Tensor, own: Tensor) -> Neighbours:
        """The neighbours of images with these descriptors, (N, F).

        Args:
            descriptors: (N, F).
            own: the index of the reference image that is the image itself and is left out, int64 (N,); −1 if there is
                none.
        Raises:
            CheckpointError: the descriptors have another dimension than those of the reference.
        """
        if descriptors.shape[1] != len(self.mean):
            raise CheckpointError(
                f"the model computes {descriptors.shape[1]} descriptors per image, but its reference has "
                f"{len(self.mean)}",
                hint="fit the reference again with vpfb info --calibrate MODEL",
            )
        return self._judged(*self._distances(self._project(descriptors), own))

    def _judged(self, distances: Tensor, rows: Tensor) -> Neighbours:
        """The neighbours of the points with these results of `_distances`."""
        return Neighbours(_log_mean(distances) - SPACING_WEIGHT * self._spacing[rows].mean(1), rows[:, :NEAREST])

    @cached_property
    def _least_outside(self) -> Tensor:
        """The tenth percentile of the distances of reference images from the space of the axes."""
        return self.points[:, -1].quantile(0.1)

    def _distances(self, points: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The distances of points (N, K + 1) from their neighbours, and the indices of these, (N, k) each.

        Neighbours are those along the axes. With many descriptors, most of a distance is outside of them, where it is
        least to the same few reference images for every point. What is outside counts as far as it exceeds the least
        that is usual.
        """
        along = torch.cdist(points[:, :-1], self.points[:, :-1])
        itself = (own >= 0).nonzero()[:, 0]
        along[itself, own[itself]] = torch.inf
        found = along.topk(min(NEIGHBOURS, len(self.points) - 1), largest=False)
        outside = (points[:, -1:] - self._least_outside).clamp(min=0)
        return (found.values.square() + outside.square()).sqrt(), found.indices


def _log_mean(distances: Tensor) -> Tensor:
    """The logarithm of the mean distance, (N, k) → (N,)."""
    return distances.mean(1).clamp(min=_SMALLEST_DISTANCE).log()


def spread(table: Tensor) -> Tensor:
    """The distance between the tenth and the ninetieth percentile of each column, (M, F) → (F,); never zero."""
    low, high = table.double().quantile(torch.tensor([0.1, 0.9]).double(), 0)
    return (high - low).clamp(min=1e-6 * float(table.abs().max()) + 1e-12).float()


def principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """The largest variances (K,) of M centred points (M, F) and their directions (F, K).

    There are at most `AXES`, and several points for each.
    """
    count, dimension = centred.shape
    # The matrix of the inner products of points has the same eigenvalues; the smaller of both matrices is used.
    wide = dimension > count
    matrix = (centred @ centred.T if wide else centred.T @ centred).double() / count
    variances, vectors = torch.linalg.eigh(matrix)
    kept = min(AXES, max(1, count // _POINTS_PER_AXIS), dimension)
    variances, directions = variances[-kept:].clamp(min=0).float(), vectors[:, -kept:].float()
    if wide:
        directions = F.normalize(centred.T @ directions, dim=0)
    return variances, directions
