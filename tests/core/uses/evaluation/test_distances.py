"""Distances of features against closed forms, scipy and torch-fidelity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from vpfb_core.uses.evaluation import distances
from vpfb_core.uses.evaluation.distances import frechet, kernel


def normal(n: int, dimension: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points_of(mean: Tensor, covariance: Tensor, n: int = 50, seed: int = 0) -> Tensor:
    """Points whose sample mean and covariance are exactly these."""
    centred = normal(n, len(mean), seed)
    centred = centred - centred.mean(0)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(torch.atleast_2d(centred.T.cov())), centred.T, upper=False
    ).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def covariance(dimension: int, seed: int) -> Tensor:
    factor = normal(dimension, dimension, seed)
    return factor @ factor.T + 0.1 * torch.eye(dimension, dtype=torch.float64)


# --- Fréchet ----------------------------------------------------------------------------------------------------------


def test_frechet_of_gaussians_with_one_basis_is_that_of_their_deviations() -> None:
    means = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]], dtype=torch.float64)
    deviations = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.1, 0.5]], dtype=torch.float64)
    one, other = (points_of(m, (s**2).diag(), seed=i) for i, (m, s) in enumerate(zip(means, deviations, strict=True)))
    exact = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet(one, other) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_frechet_of_gaussians_in_different_bases_matches_scipys_root(dimension: int) -> None:
    first, second = covariance(dimension, 1), covariance(dimension, 2)
    mean = torch.arange(dimension, dtype=torch.float64)
    root = sqrtm((first @ second).numpy()).real
    exact = float(mean.square().sum()) + float(first.trace() + second.trace()) - 2 * np.trace(root)
    assert frechet(points_of(0 * mean, first), points_of(mean, second, seed=3)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("n", "dimension"), [(60, 8), (12, 30)])  # more and fewer points than dimensions
def test_frechet_is_torch_fidelitys(n: int, dimension: int) -> None:
    one, other = normal(n, dimension) @ covariance(dimension, 1), 1 + normal(n, dimension, seed=2)
    statistics = [fid_features_to_statistics(features) for features in (one, other)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert frechet(one, other) == pytest.approx(theirs, rel=1e-5)


def test_frechet_of_a_set_with_itself_is_zero() -> None:
    points = normal(40, 6)
    assert frechet(points, points.clone()) == pytest.approx(0, abs=1e-9)


def test_frechet_grows_with_shift_and_with_spread() -> None:
    real = normal(200, 5)
    shifts = [frechet(real + shift, real) for shift in (0, 0.5, 1)]
    assert shifts == pytest.approx([0, 5 * 0.25, 5], abs=1e-9)
    spreads = [frechet(real * spread, real) for spread in (1, 1.5, 2)]
    assert spreads == sorted(spreads)
    assert spreads[2] > spreads[1] > 0.5


def test_frechet_takes_single_precision_with_a_large_mean() -> None:
    """As features behind a ReLU are: what is computed in float32 throughout loses the spread."""
    real = 1000 + normal(300, 4)
    assert frechet((real + 0.1).float(), real.float()) == pytest.approx(4 * 0.1**2, rel=1e-2)


# --- kernel -----------------------------------------------------------------------------------------------------------


def test_kernel_is_torch_fidelitys_of_one_subset_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = normal(50, 8), 0.3 + normal(50, 8, seed=1)
    theirs = kid_features_to_metric(one, other, kid_subsets=1, kid_subset_size=50, verbose=False)
    assert kernel(one, other) == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-10)
    monkeypatch.setattr(distances, "ROWS", 7)
    assert kernel(one, other) == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-10)


def test_kernel_compares_three_moments_without_bias() -> None:
    """In one dimension k = (xy + 1)³, so the discrepancy is that of m₃, and thrice those of m₂ and m₁."""
    estimates = torch.tensor([kernel(normal(30, 1, 2 * seed), normal(40, 1, 2 * seed + 1)) for seed in range(400)])
    assert abs(estimates.mean()) < 3 * estimates.std() / 20
    shifted = torch.tensor([kernel(1 + normal(30, 1, 2 * s), normal(30, 1, 2 * s + 1)) for s in range(400)])
    exact = 4**2 + 3 * 1**2 + 3 * 1**2  # moments 1, 2, 4 against 0, 1, 0
    assert abs(shifted.mean() - exact) < 3 * shifted.std() / 20
    assert shifted.std() / 20 < 0.1 * exact


def test_kernel_of_a_set_with_itself_is_not_above_zero() -> None:
    """All pairs within, less all pairs between that contain k(x, x), which is never below the mean."""
    points = normal(40, 6)
    assert -1 < kernel(points, points.clone()) < 0


def test_kernel_grows_with_shift() -> None:
    real, samples = normal(300, 5), normal(300, 5, seed=1)
    found = [kernel(samples + shift, real) for shift in (0, 0.2, 0.5)]
    assert found == sorted(found)
    assert abs(found[0]) < 0.03 < found[1]


def test_the_sliced_distance_of_a_shift_on_a_line_is_the_shift_and_in_the_plane_its_mean_projection() -> None:
    line = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    assert distances.sliced(line + 0.75, line) == pytest.approx(0.75, abs=1e-6)
    plane = torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([3.0, 4.0])
    assert distances.sliced(plane + shift, plane) == pytest.approx(5 * 2 / math.pi, rel=0.1)
    assert distances.sliced(plane, plane.flip(0)) == pytest.approx(0, abs=1e-12)
