"""The dual of a tilt against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from vpfb_core.uses.matching.dual import Dual, maximise, rounds_for


def solved(*found: Dual | None) -> Dual:
    assert found[0] is not None
    return found[0]


def test_shares_of_classes_are_moved_by_their_log_odds_and_the_gain_is_the_divergence() -> None:
    counts, target = np.array([60, 30, 10]), np.array([0.2, 0.5, 0.3])
    kind = torch.tensor(np.repeat([0, 1, 2], counts))
    found = solved(maximise(one_hot(kind).double()[:, 1:], torch.tensor(target[1:]), 0.0))
    gain = np.log(target / (counts / 100))
    np.testing.assert_allclose(found.weights, gain[1:] - gain[0], atol=1e-9)
    assert found.log_partition == pytest.approx(-gain[0], abs=1e-9)
    np.testing.assert_allclose(found.means, target[1:], atol=1e-9)
    divergence = float((found.probabilities * torch.log(100 * found.probabilities)).sum())
    assert divergence == pytest.approx(target @ gain, abs=1e-9)


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
