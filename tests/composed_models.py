"""Conditional models whose classes are known exactly, so that every composition of Gaussians is too."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from models import vpfb_model
from problems import STD, ExactNetwork, Mixture
from torch import Tensor, nn

from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.methods.path.homotopy import OT, Homotopy
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser, levels
from vpfb_core.methods.vpfb.potential import Potential

COLOURS = (ConditionGroup("colour", ("red", "green", "blue")),)
SCHEDULE = OT(sigma_min=0.01)

Condition = tuple[int, ...]


def gaussian(mean: list[float], covariance: list[float] | list[list[float]]) -> Mixture:
    """N(mean, covariance) in units of the data's deviation; a list of numbers is a diagonal."""
    matrix = torch.tensor(covariance, dtype=torch.float64)
    variances, axes = torch.linalg.eigh(torch.diag(matrix) if matrix.ndim == 1 else matrix)
    means = STD * torch.tensor(mean, dtype=torch.float64)
    return Mixture(torch.ones(1, dtype=torch.float64), means[None], axes[None], STD**2 * variances[None], STD)


def moments(part: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a single Gaussian at the floor of the arc, sin φ z + cos φ ε."""
    angle = SCHEDULE.angle_range(STD)[1]
    covariance = (part.axes[0] * part.variances[0]) @ part.axes[0].mT / STD**2
    sine, cosine = math.sin(angle), math.cos(angle)
    return sine * part.means[0] / STD, sine**2 * covariance + cosine**2 * torch.eye(part.dimension)


def product(parts: list[tuple[Mixture, float]]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of Π ρ^w of single Gaussians, each as it is at the floor: precisions add."""
    precision = torch.zeros(parts[0][0].dimension, parts[0][0].dimension, dtype=torch.float64)
    pull = torch.zeros(parts[0][0].dimension, dtype=torch.float64)
    for part, weight in parts:
        mean, covariance = moments(part)
        precision += weight * torch.linalg.inv(covariance)
        pull += weight * torch.linalg.solve(covariance, mean)
    return torch.linalg.solve(precision, pull), torch.linalg.inv(precision)


class ExactClasses(nn.Module):
    """The exact N of each condition, (N,); N may be shifted by a number of nats over tan φ, which shifts no density."""

    def __init__(self, densities: Mapping[Condition, Mixture], shifts: Mapping[Condition, float]) -> None:
        super().__init__()
        self.networks = {condition: ExactNetwork(mixture) for condition, mixture in densities.items()}
        self.shifts = dict(shifts)
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is None:
            return self._value(next(iter(self.networks)), u, angle)
        value = u.new_zeros(len(u))
        for key in self.networks:
            rows = (condition == torch.tensor(key)).all(1).nonzero()[:, 0]
            if len(rows):
                value = value.index_put((rows,), self._value(key, u[rows], angle[rows]))
        return value

    def _value(self, condition: Condition, u: Tensor, angle: Tensor) -> Tensor:
        found = self.networks[condition](u, angle)
        if condition not in self.shifts:
            return found
        return found + (self.shifts[condition] / torch.tan(angle).clamp(min=1e-9)).to(found)


def exact_model(
    densities: Mapping[Condition, Mixture],
    groups: tuple[ConditionGroup, ...] = COLOURS,
    *,
    shifts: Mapping[Condition, float] | None = None,
    errors: Mapping[Condition, float] | None = None,
    schedule: Homotopy = SCHEDULE,
) -> Model:
    """A calibrated model of these densities, one per condition; () alone for an unconditional one.

    Args:
        shifts: nats that N has too much of, as a network may; the normaliser knows of them.
        errors: nats that the normaliser is wrong by.
    """
    shifts, errors = shifts or {}, errors or {}
    potential = Potential(ExactClasses(densities, shifts), schedule, STD)
    dimension, noise = next(iter(densities.values())).dimension, levels(potential)
    constants = {}
    for condition in densities:
        value = -0.5 * dimension * math.log(2 * math.pi) - shifts.get(condition, 0) + errors.get(condition, 0)
        constants[condition] = Constants((value,) * len(noise), (0.0,) * len(noise), 1)
    normaliser = Normaliser(dimension, noise, constants)
    return vpfb_model(
        potential,
        statistics=ImageStatistics((0.5,), 0.05),
        shape=(1, 1, dimension),
        groups=groups,
        normaliser=normaliser,
    )
