"""The weights λ of an exponential tilt from samples, so that weighted samples have given means of statistics.

Among all densities with E T = t, p exp(λ·T)/Z is the one with the least divergence from p, and λ is the maximum of the
concave dual λ·t − log E exp(λ·T). Its second derivative is minus the covariance of T under the tilted density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.dynamics.population import effective_sample_size

STEPS, SMALLEST_STEP = 200, 1e-11
SINGULAR = 1e-9  # the least eigenvalue of a covariance, relative to the largest one, that is not zero
# The largest λ, in nats per standard deviation of a statistic. Beyond it a single sample has all the weight.
LARGEST = 50.0
DISTANCE = 0.01  # the total variation that independence Metropolis may leave


@dataclass(frozen=True)
class Dual:
    """The maximum of the dual.

    Attributes:
        weights: λ, in nats per unit of each statistic, (m,).
        probabilities: the probability of each sample under the tilt, (M,).
        log_partition: log Z, the logarithm of the mean of exp(λ·T) over the samples.
        means: the means of the statistics under the tilt, (m,).
    """

    weights: Tensor
    probabilities: Tensor
    log_partition: float
    means: Tensor

    @property
    def share(self) -> float:
        """The effective sample size (Kish), as a share of the number of samples."""
        return float(effective_sample_size(self.probabilities.log()) / len(self.probabilities))


def maximise(statistics: Tensor, target: Tensor, ridge: float) -> Dual | None:
    """The tilt whose means are the target, by Newton's method; None if no weights of the samples have these means.

    Args:
        statistics: T of each sample, float64 (M, m).
        target: t, (m,).
        ridge: the variance of the error of t − E T, in units of the covariance of T. Each λ is then the mode for a
            normal prior, so that a difference within its own error has no effect.
    """
    samples, columns = statistics.shape
    mean, covariance = moments(statistics, statistics.new_full((samples,), 1 / samples))
    scale = covariance.diagonal().clamp(min=0).sqrt()
    varies = scale > 1e-12 * (1 + mean.abs())
    unit = torch.where(varies, scale, 1.0)
    whitened = torch.where(varies, (statistics - mean) / unit, 0.0)
    goal = (target - mean) / unit
    if bool((goal.abs() > 1e-6)[~varies].any()):
        return None
    goal = torch.where(varies, goal, 0.0)
    prior = ridge * covariance / (unit[:, None] * unit)
    weights = statistics.new_zeros(columns)

    def objective(weights: Tensor) -> float:
        return float(weights @ goal - _log_mean_exp(whitened @ weights) - 0.5 * weights @ prior @ weights)

    value = objective(weights)
    for _ in range(STEPS):
        probabilities = torch.softmax(whitened @ weights, 0)
        found, spread = moments(whitened, probabilities)
        gradient = goal - found - prior @ weights
        # The statistics may depend on each other, such as shares that sum to 1. The pseudo-inverse ignores that.
        step = torch.linalg.pinv(spread + prior, rtol=SINGULAR, hermitian=True) @ gradient
        length = 1.0
        while length > 1e-6 and not objective(weights + length * step) >= value:
            length /= 2
        weights = weights + length * step
        value = objective(weights)
        if float(weights.abs().max()) > LARGEST:
            return None
        if float((length * step).abs().max()) < SMALLEST_STEP or length <= 1e-6:
            break
    exponents = whitened @ weights
    probabilities = torch.softmax(exponents, 0)
    weights = weights / unit
    means = probabilities @ statistics
    if bool(((means - target).abs() > 0.05 * unit).any()):  # what the ridge holds back is far less
        return None
    log_partition = float(_log_mean_exp(exponents) + weights @ mean)
    return Dual(weights, probabilities, log_partition, means)


def _log_mean_exp(exponents: Tensor) -> Tensor:
    return torch.logsumexp(exponents, 0) - math.log(len(exponents))


def moments(statistics: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (m,) and the covariance (m, m) of statistics (M, m) with these probabilities (M,)."""
    mean = probabilities @ statistics
    apart = statistics - mean
    return mean, (probabilities[:, None] * apart).T @ apart


def rounds_for(worst: float) -> float:
    """The number of rounds after which independence Metropolis is within `DISTANCE` of the tilted density.

    Args:
        worst: the largest ratio of the tilted density to that of the proposals.
    Returns:
        The least whole R with (1 − 1/worst)^R ≤ DISTANCE; infinite if `worst` is.
    """
    if worst <= 1 + 1e-9:
        return 0
    return float(math.ceil(math.log(DISTANCE) / math.log1p(-1 / worst)))
