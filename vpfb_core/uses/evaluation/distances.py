"""Distances of two sets of features: the Fréchet distance of Gaussians, and the kernel maximum mean discrepancy.

With the features of the FID Inception network these are FID and KID, which torch-fidelity computes
(`vpfb_core.uses.evaluation.inception`). With other features they have their own names. Features are (N, F) and are
converted to double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.machine.precision import exact

ROWS = 2048  # the number of rows of a matrix that are computed at once
DIRECTIONS = 200  # of the sliced Wasserstein distance


def frechet(samples: Tensor, real: Tensor) -> float:
    """‖m − m'‖² + tr(Σ + Σ' − 2 (Σ Σ')^½), the squared Wasserstein-2 distance of two Gaussians (Fréchet 1957).

    Heusel et al. 2017 (arXiv 1706.08500), equation 6. 0 is best. The estimate is biased upwards, more so for fewer
    images. tr (Σ Σ')^½ is computed as the sum of the singular values of Σ^½ Σ'^½, which needs only roots of symmetric
    matrices.
    """
    (mean, root), (other_mean, other_root) = _moments(samples), _moments(real)
    spread = root.square().sum() + other_root.square().sum()  # tr Σ = ‖Σ^½‖²
    return float((mean - other_mean).square().sum() + spread - 2 * torch.linalg.svdvals(root @ other_root).sum())


def kernel(samples: Tensor, real: Tensor) -> float:
    """The squared maximum mean discrepancy with the kernel k(x, y) = (x·y/F + 1)³.

    Bińkowski et al. 2018 (arXiv 1801.01401), over all pairs instead of the mean over subsets. The estimate is unbiased,
    so that its best values are around 0 and may be negative.
    """
    samples, real = exact(samples), exact(real)
    n, m = len(samples), len(real)
    within = _sum_of_kernel(samples, samples) - float(_kernel_of_itself(samples).sum())
    within_real = _sum_of_kernel(real, real) - float(_kernel_of_itself(real).sum())
    between = _sum_of_kernel(samples, real)
    return within / (n * (n - 1)) + within_real / (m * (m - 1)) - 2 * between / (n * m)


def sliced(samples: Tensor, real: Tensor, seed: int = 0) -> float:
    """The sliced Wasserstein distance: the mean of W₁ along `DIRECTIONS` random directions.

    Bonneel et al. 2015 (doi 10.1007/s10851-014-0506-3). 0 is best, and the estimate is biased upwards, more so for
    fewer points.
    """
    from scipy.stats import wasserstein_distance  # takes a second, which training need not wait for

    directions = torch.randn(samples.shape[1], DIRECTIONS, generator=noise.generator(seed, "slices")).double()
    directions = directions / directions.norm(dim=0)
    one, other = ((exact(each).cpu() @ directions).T.numpy() for each in (samples, real))
    return float(sum(map(wasserstein_distance, one, other)) / DIRECTIONS)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (F,) and the symmetric root of the covariance (F, F)."""
    features = exact(features).cpu()
    mean = features.mean(0)
    centred = features - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / (len(features) - 1))
    return mean, axes * variances.clamp(min=0).sqrt() @ axes.T


def _sum_of_kernel(one: Tensor, other: Tensor) -> float:
    return sum(float((rows @ other.T / one.shape[1] + 1).pow(3).sum()) for rows in one.split(ROWS))


def _kernel_of_itself(features: Tensor) -> Tensor:
    return (features.square().mean(1) + 1).pow(3)
