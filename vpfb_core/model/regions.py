"""How far the parts of an image are from the same parts of the images of a reference.

An image that is unusual in one part only, such as one with a hole, is near to others as a whole. So each region of a
grid has nearest neighbours of its own, as in PaDiM (Defard et al. 2021, arXiv 2011.08785), and the most unusual square
of 3×3 regions decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.errors import CheckpointError
from vpfb_core.model.neighbourhood import NEIGHBOURS, Neighbours, NullDistribution

_AXES = 6  # principal directions per region; with four, fewer holes were found, and with all 17 as many
_SQUARE = 3  # the side of the squares of regions
# Of the distances in a region where all reference images are alike. Where most of them are blank, the quartiles of the
# distances or of their logarithms are equal, so these found fewer outliers than means and standard deviations.
_LEAST_SPREAD = 0.01


@dataclass(frozen=True, eq=False)
class Regions:
    """The neighbourhoods of M reference images at each of P regions, which are a square grid in rows.

    Attributes:
        mean: the mean of the descriptors in each region, (P, F).
        axes: their principal axes, (P, F, K).
        points: the coordinates of the reference images along the axes, (P, M, K).
        usual: the mean distance of reference images from their nearest neighbours in each region, (P,).
        unit: the standard deviation of that distance, (P,).
        values: the statistic of each reference image, (M,).
    """

    mean: Tensor
    axes: Tensor
    points: Tensor
    usual: Tensor
    unit: Tensor
    values: Tensor

    @classmethod
    def of(cls, descriptors: Tensor) -> Regions:
        """The neighbourhoods of reference images with these descriptors, (M, P, F), M ≥ 2."""
        by_region = descriptors.transpose(0, 1).float()
        mean = by_region.mean(1)
        centred = by_region - mean[:, None]
        axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors[:, :, -_AXES:]
        none = mean.new_empty(0)
        empty = cls(mean, axes.half().float(), none, none, none, none)
        placed = replace(empty, points=empty._project(descriptors))
        distances = placed._distances(placed.points, torch.arange(len(descriptors)))
        unit = distances.std(0, correction=0) + _LEAST_SPREAD
        scaled = replace(placed, usual=distances.mean(0), unit=unit)
        return replace(scaled, values=scaled._statistic(distances))

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def null(self) -> NullDistribution:
        """The distribution of the statistic among reference images."""
        return NullDistribution(self.values)

    def neighbours(self, descriptors: Tensor, own: Tensor) -> Neighbours:
        """The statistics of images with these descriptors, (N, P, F), without the neighbours in each region.

        Args:
            descriptors: (N, P, F).
            own: the index of the reference image that is the image itself and is left out, int64 (N,); −1 if there is
                none.
        Raises:
            CheckpointError: the descriptors have another shape than those of the reference.
        """
        if descriptors.shape[1:] != self.mean.shape:
            raise CheckpointError(
                f"images have descriptors of shape {tuple(descriptors.shape[1:])}, but the reference "
                f"{tuple(self.mean.shape)}",
                hint="fit the reference again with vpfb info --calibrate MODEL",
            )
        distances = self._distances(self._project(descriptors), own)
        return Neighbours(self._statistic(distances), own.new_empty(len(own), 0))

    def _project(self, descriptors: Tensor) -> Tensor:
        """The points (P, N, K) of descriptors (N, P, F), with the precision that they have in a file."""
        return ((descriptors.transpose(0, 1).float() - self.mean[:, None]) @ self.axes).half().float()

    def _distances(self, points: Tensor, own: Tensor) -> Tensor:
        """The distances of points (P, N, K) from their nearest neighbours in each region, (N, P)."""
        itself = (own >= 0).nonzero()[:, 0]
        found = []
        for here, known in zip(points, self.points, strict=True):  # all regions at once would take much memory
            distances = torch.cdist(here, known)
            distances[itself, own[itself]] = torch.inf
            found.append(distances.topk(min(NEIGHBOURS, len(known) - 1), largest=False).values.mean(1))
        return torch.stack(found, 1)

    def _statistic(self, distances: Tensor) -> Tensor:
        """How unusual the most unusual square of regions is, (N, P) → (N,)."""
        side = math.isqrt(distances.shape[1])
        unusual = ((distances - self.usual) / self.unit).view(-1, 1, side, side)
        return F.avg_pool2d(unusual, min(_SQUARE, side), 1).flatten(1).amax(1)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a model file."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"axes": self.axes.half(), "points": self.points.half()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Regions:
        """The neighbourhoods with these tensors.

        Raises:
            KeyError, ValueError: a tensor is missing or does not fit the others.
        """
        found = cls(**{field.name: tensors[field.name].float() for field in fields(cls)})
        dimensions = [getattr(found, field.name).ndim for field in fields(cls)]
        if dimensions != [2, 3, 3, 1, 1, 1] or len(found.values) < 2:
            raise ValueError("the tensors of the regions have the wrong dimensions")
        regions, axes = len(found.mean), found.axes.shape[2]
        if not (
            math.isqrt(regions) ** 2 == regions
            and found.axes.shape[:2] == found.mean.shape
            and found.points.shape == (regions, len(found.values), axes)
            and found.usual.shape == found.unit.shape == (regions,)
            and (found.unit > 0).all()
        ):
            raise ValueError("the tensors of the regions do not fit each other")
        return found
