"""Figures from nearest neighbours: fidelity and diversity of samples, and a two-sample test against real images.

Each point has a ball up to its k-th nearest neighbour in its own set. All figures come from the matrices of distances
within both sets and between them, which are computed in blocks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.machine.precision import exact
from vpfb_core.uses.evaluation.distances import ROWS

BALL = 3  # k of precision and recall, as in their paper
COUNTING_BALL = 5  # k of density and coverage, as in their paper
FEWEST = COUNTING_BALL + 1  # the least number of points per set
_ROUNDING = 1e-12  # the rounding of squared distances in float64, as a share of the largest squared norm


@dataclass(frozen=True)
class Neighbours:
    """The figures of nearest neighbours.

    Attributes:
        precision: the share of samples in the ball of some real image, which measures fidelity.
        recall: the share of real images in the ball of some sample, which measures diversity.
        density: the mean number of balls of real images that contain a sample, divided by k. It is 1 for equal
            distributions and can exceed 1. The large ball of an outlier affects it less than precision.
        coverage: the share of real images whose ball contains a sample.
        accuracy: the leave-one-out accuracy of a 1-nearest-neighbour classifier of samples and real images: 0.5 for
            equal distributions, 1 for separate sets, 0 if every sample is a copy. Ties count one half.
        accuracy_real, accuracy_samples: the accuracy on the real images and on the samples.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    accuracy: float
    accuracy_real: float
    accuracy_samples: float


def compare(samples: Tensor, real: Tensor) -> Neighbours:
    """All figures of two sets of features, (N, F) and (M, F), where N and M are at least `FEWEST`.

    Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and coverage those of Naeem
    et al. 2020 (arXiv 2002.09797). The two-sample test is that of Lopez-Paz and Oquab 2017 (arXiv 1610.06545).
    """
    samples, real = exact(samples), exact(real)
    own_samples, own_real = _nearest_of_own(samples), _nearest_of_own(real)
    ball_samples, ball_real = own_samples[:, BALL - 1], own_real[:, BALL - 1]
    counting_ball = own_real[:, COUNTING_BALL - 1]
    to_real, realistic, counts = [], [], []
    to_samples = torch.full_like(ball_real, torch.inf)
    reached = torch.zeros_like(ball_real, dtype=torch.bool)
    for block, radii in zip(samples.split(ROWS), ball_samples.split(ROWS), strict=True):
        distances = torch.cdist(block, real)
        to_real.append(distances.amin(1))
        to_samples = torch.minimum(to_samples, distances.amin(0))
        realistic.append((distances <= ball_real).any(1))
        reached |= (distances <= radii[:, None]).any(0)
        counts.append((distances < counting_ball).sum(1))
    rounding = _ROUNDING * max(float(points.square().sum(1).max()) for points in (samples, real))
    right_samples = _told_apart(own_samples[:, 0], torch.cat(to_real), rounding)
    right_real = _told_apart(own_real[:, 0], to_samples, rounding)
    return Neighbours(
        precision=_mean(torch.cat(realistic)),
        recall=_mean(reached),
        density=_mean(torch.cat(counts)) / COUNTING_BALL,
        coverage=_mean(to_samples < counting_ball),
        accuracy=_mean(torch.cat([right_real, right_samples])),
        accuracy_real=_mean(right_real),
        accuracy_samples=_mean(right_samples),
    )


def _nearest_of_own(points: Tensor) -> Tensor:
    """The increasing distances of each point from its nearest neighbours in its set, (N, `COUNTING_BALL`)."""
    parts = []
    for rows in torch.arange(len(points), device=points.device).split(ROWS):
        distances = torch.cdist(points[rows], points)
        distances[torch.arange(len(rows), device=points.device), rows] = torch.inf
        parts.append(distances.topk(COUNTING_BALL, largest=False).values)
    return torch.cat(parts)


def _told_apart(own: Tensor, other: Tensor, rounding: float) -> Tensor:
    """1 if the nearest neighbour is in the same set, ½ if both sets are equally near, else 0, float64 (N,).

    Args:
        own, other: distances from the nearest neighbour in the own and in the other set, (N,).
        rounding: squared distances that differ by no more are equal: `torch.cdist` takes them as ‖x‖² + ‖y‖² − 2 x·y.
    """
    difference = own.square() - other.square()
    return (difference < -rounding).double() + 0.5 * (difference.abs() <= rounding).double()


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
