"""How much more a model would change an image to remove noise than other images with such details.

The norm of the score depends most of all on how much detail an image has, whatever it shows. What a linear regression
on the details does not explain tells more about the content. In the same way, Serrà et al. 2020 (arXiv 1909.11480)
subtract the complexity of an image from its likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from vpfb_core.model.neighbourhood import ROBUST_SHARE, Neighbours, NullDistribution, spread

_RIDGE = 1.0  # the penalty of the regression, for details in units of their spread
_FARTHEST = 4.0  # units from the mean, beyond which details count as if they were there
_LEAST_SHARE = 1e-2  # of a reference image's residual that its own influence on the regression leaves, at least


@dataclass(frozen=True, eq=False)
class Excess:
    """A regression of K log norms of the score on C details, fitted to M reference images.

    The statistic of an image is the largest of its K residuals, in units of their spread. That of a reference image is
    by the regression without it.

    Attributes:
        mean: the mean of the details, (C,).
        unit: the spread of the details, (C,).
        weights: the coefficients, (1 + C, K).
        residual_unit: the spread of the residuals, (K,).
        values: the statistic of each reference image, (M,).
    """

    mean: Tensor
    unit: Tensor
    weights: Tensor
    residual_unit: Tensor
    values: Tensor

    @classmethod
    def of(cls, log_norms: Tensor, details: Tensor) -> Excess:
        """The regression for reference images with these log norms (M, K) and details (M, C), M ≥ 2.

        The least typical of them do not define it.
        """
        first = cls._of(log_norms, details, torch.arange(len(details)))
        kept = first.values.argsort()[: max(2, round(ROBUST_SHARE * len(details)))]
        return cls._of(log_norms, details, kept)

    @classmethod
    def _of(cls, log_norms: Tensor, details: Tensor, typical: Tensor) -> Excess:
        """The regression by some of the reference images, the typical ones."""
        mean, unit = details[typical].mean(0), spread(details[typical])
        none = details.new_empty(0)
        empty = cls(mean, unit, none, none, none)
        terms, norms = empty._terms(details), log_norms.double()
        penalty = torch.cat([torch.zeros(1), torch.full((len(mean),), _RIDGE)]).double()  # none for the constant
        matrix = terms[typical].T @ terms[typical] + penalty.diag()
        weights = torch.linalg.solve(matrix, terms[typical].T @ norms[typical])
        residuals = norms - terms @ weights
        # A residual without the image itself is larger by a factor that the influence of the image determines.
        influence = (terms * torch.linalg.solve(matrix, terms.T).T).sum(1)[typical]
        residuals[typical] /= (1 - influence).clamp(min=_LEAST_SHARE)[:, None]
        residual_unit = spread(residuals)
        values = (residuals / residual_unit).amax(1)
        return replace(empty, weights=weights.float(), residual_unit=residual_unit, values=values.float())

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def null(self) -> NullDistribution:
        """The distribution of the statistic among reference images."""
        return NullDistribution(self.values)

    def neighbours(self, descriptors: Tensor, own: Tensor) -> Neighbours:
        """The statistics of N images, without neighbours.

        Args:
            descriptors: the log norms and then the details of each image, (N, K + C).
            own: the index of the reference image that the image is, int64 (N,); −1 if it is none.
        """
        log_norms, details = descriptors.split([len(self.residual_unit), len(self.mean)], 1)
        residuals = log_norms.double() - self._terms(details) @ self.weights.double()
        found = (residuals / self.residual_unit).amax(1).float()
        return Neighbours(torch.where(own >= 0, self.values[own], found), own.new_empty(len(own), 0))

    def _terms(self, details: Tensor) -> Tensor:
        """What the norms depend on linearly, float64 (N, C) → (N, 1 + C)."""
        scaled = ((details - self.mean) / self.unit).clamp(-_FARTHEST, _FARTHEST).double()
        return torch.cat([torch.ones_like(scaled[:, :1]), scaled], 1)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a model file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Excess:
        """The regression with these tensors.

        Raises:
            KeyError, ValueError: a tensor is missing or does not fit the others.
        """
        found = cls(**{field.name: tensors[field.name].float() for field in fields(cls)})
        dimensions = [getattr(found, field.name).ndim for field in fields(cls)]
        if dimensions != [1, 1, 2, 1, 1] or not len(found.values):
            raise ValueError("the tensors of the regression have the wrong dimensions")
        if found.mean.shape != found.unit.shape or found.weights.shape != (
            1 + len(found.mean),
            len(found.residual_unit),
        ):
            raise ValueError("the tensors of the regression do not fit each other")
        if not ((found.unit > 0).all() and (found.residual_unit > 0).all()):
            raise ValueError("a unit of the regression is not positive")
        return found
