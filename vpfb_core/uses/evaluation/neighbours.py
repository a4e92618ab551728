"""What nearest neighbours say of samples among real images: fidelity, diversity, and whether they can be told apart.

Each point has a ball that reaches to its k-th nearest neighbour in its own set. All figures come from three matrices of
distances, samples and real images among themselves and between them, a block of rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.uses.evaluation.distances import ROWS, exact

BALL = 3  # of precision and recall, as in their paper
COUNTING_BALL = 5  # of density and coverage, as in theirs
FEWEST = COUNTING_BALL + 1  # points a set


@dataclass(frozen=True)
class Neighbours:
    """What `compare` finds.

    Attributes:
        precision: share of the samples that lie in the ball of some real image: are they like real ones?
        recall: share of the real images that lie in the ball of some sample: are all of them reached?
        density: real balls that a sample lies in, over k; 1 where both are of one kind, and unlike precision not fooled
            by the large ball of an outlier. It can exceed 1.
        coverage: share of the real images whose own ball holds a sample.
        accuracy: of a 1-nearest-neighbour classifier that tells samples from real images, leave one out: 0.5 where
            they are of one kind, 1 where they lie apart, 0 where each sample is a copy. Ties count half.
        accuracy_real, accuracy_samples: the same of the real images and of the samples alone.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    accuracy: float
    accuracy_real: float
    accuracy_samples: float


def compare(samples: Tensor, real: Tensor) -> Neighbours:
    """All figures of two sets of features, (N, F) and (M, F), N and M at least `FEWEST`.

    Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991); density and coverage: Naeem et al. 2020 (arXiv
    2002.09797); the two-sample accuracy: Lopez-Paz and Oquab 2017 (arXiv 1610.06545).
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
    right_samples = _told_apart(own_samples[:, 0], torch.cat(to_real))
    right_real = _told_apart(own_real[:, 0], to_samples)
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
    """Distances of each point from its nearest others, increasing, (N, `COUNTING_BALL`)."""
    parts = []
    for rows in torch.arange(len(points), device=points.device).split(ROWS):
        distances = torch.cdist(points[rows], points)
        distances[torch.arange(len(rows), device=points.device), rows] = torch.inf
        parts.append(distances.topk(COUNTING_BALL, largest=False).values)
    return torch.cat(parts)


def _told_apart(own: Tensor, other: Tensor) -> Tensor:
    """1 where the nearest neighbour is of the own set, ½ where both sets are equally near, float64 (N,)."""
    return (own < other).double() + 0.5 * (own == other).double()


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
