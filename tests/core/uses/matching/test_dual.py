"""The dual of a tilt against closed forms of Gaussians, on nodes of quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vpfb_core.uses.matching.dual import Dual, maximise, rounds_for


def gaussian_nodes(count: int = 80) -> tuple[Tensor, Tensor]:
    """Nodes of N(0, 1) and the logarithms of their weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.tensor(nodes), torch.log(torch.tensor(weights))


def solved(*found: Dual | None) -> Dual:
    assert found[0] is not None
    return found[0]


@pytest.mark.parametrize(("mean", "deviation"), [(0.7, 0.8), (-1.1, 1.1), (0.0, 0.65)])
def test_mean_and_variance_of_a_gaussian_give_its_log_density_ratio(mean: float, deviation: float) -> None:
    x, log_weights = gaussian_nodes()
    target = torch.tensor([mean, mean**2 + deviation**2], dtype=torch.float64)
    found = solved(maximise(torch.stack([x, x**2], 1), target, 0.0, log_weights))
    np.testing.assert_allclose(found.weights, [mean / deviation**2, 0.5 * (1 - 1 / deviation**2)], atol=1e-9)
    assert found.log_partition == pytest.approx(0.5 * mean**2 / deviation**2 + math.log(deviation), abs=1e-9)
    np.testing.assert_allclose(found.means, target, atol=1e-9)


def test_the_gain_is_the_divergence_of_the_tilted_density() -> None:
    x, log_weights = gaussian_nodes()
    target = torch.tensor([0.5, 0.9], dtype=torch.float64)
    found = solved(maximise(torch.stack([x, x**2], 1), target, 0.0, log_weights))
    base = torch.softmax(log_weights, 0)
    kl = float((found.probabilities * torch.log(found.probabilities / base)).nan_to_num().sum())
    assert float(found.weights @ target) - found.log_partition == pytest.approx(kl, abs=1e-9)


def test_statistics_that_depend_on_each_other_are_matched() -> None:
    draws = torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = draws / draws.sum(1, keepdim=True)
    target = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    found = solved(maximise(shares, target, 0.0))
    np.testing.assert_allclose(found.means, target, atol=1e-9)


def test_the_ridge_ignores_what_may_be_an_error_and_not_what_is_none() -> None:
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = torch.tensor([float(x.mean()) + 0.02], dtype=torch.float64)
    free, held = (solved(maximise(x, apart, ridge)) for ridge in (0.0, 1.0))
    # N(0, 1/ridge) for λ and N(λ, 1) for the mean give half of the way.
    assert float(held.weights) == pytest.approx(float(free.weights) / 2, rel=0.05)


@pytest.mark.parametrize("target", [3.5, -4.0])
def test_means_that_no_weights_have_are_none(target: float) -> None:
    x = torch.linspace(-3, 3, 100, dtype=torch.float64)[:, None]
    assert maximise(x, torch.tensor([target], dtype=torch.float64), 0.0) is None
    assert maximise(x, torch.tensor([target], dtype=torch.float64), 0.01) is None


def test_a_statistic_that_does_not_vary_has_only_its_own_value() -> None:
    x = torch.stack([torch.ones(10), torch.arange(10)], 1).double()
    assert maximise(x, torch.tensor([2.0, 4.0], dtype=torch.float64), 0.0) is None
    found = solved(maximise(x, torch.tensor([1.0, 5.0], dtype=torch.float64), 0.0))
    assert float(found.weights[0]) == 0
    np.testing.assert_allclose(found.means, [1, 5], atol=1e-9)


def test_the_effective_share_is_that_of_kish() -> None:
    statistics = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    found = solved(maximise(statistics, torch.tensor([0.8], dtype=torch.float64), 0.0))
    np.testing.assert_allclose(found.probabilities, [0.1, 0.1, 0.4, 0.4], atol=1e-9)
    assert found.share == pytest.approx(1 / (4 * (0.1**2 * 2 + 0.4**2 * 2)))


@pytest.mark.parametrize(("worst", "rounds"), [(1.0, 0), (2.0, 7), (1.4, 4), (100.0, 459)])
def test_the_number_of_rounds_is_the_least_that_keeps_the_bound(worst: float, rounds: int) -> None:
    assert rounds_for(worst) == rounds
    if rounds:
        assert (1 - 1 / worst) ** rounds <= 0.01 < (1 - 1 / worst) ** (rounds - 1)
