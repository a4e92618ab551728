"""The regression of score norms on details: against scikit-learn, for members and others, and where images are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from vpfb_core.model.excess import Excess
from vpfb_core.model.neighbourhood import spread

NOBODY = torch.full((50,), -1)


def measured(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log norms at three levels that depend on four details, and the details, of n images."""
    random = torch.Generator().manual_seed(seed)
    details = torch.randn(n, 4, generator=random) * torch.tensor([1.0, 5.0, 0.1, 1.0]) + 7
    slopes = torch.tensor([[1.0, 0.2, 0.0], [0.1, 0.3, 0.2], [2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    return details @ slopes + 0.1 * torch.randn(n, 3, generator=random) + 3, details


def joined(log_norms: Tensor, details: Tensor) -> Tensor:
    return torch.cat([log_norms, details], 1)


def by_scikit_learn(log_norms: Tensor, details: Tensor, excess: Excess, at: Tensor) -> np.ndarray:
    """The norms that a ridge regression expects at other details."""
    scaled, there = ((each - excess.mean) / excess.unit for each in (details, at))
    return Ridge(alpha=1.0).fit(scaled.numpy(), log_norms.numpy()).predict(there.numpy())


def test_the_statistic_is_the_largest_residual_of_a_ridge_regression() -> None:
    log_norms, details = measured(200)
    excess = Excess._of(log_norms, details, torch.arange(200))
    norms, at = measured(50, seed=1)
    expected = (norms.numpy() - by_scikit_learn(log_norms, details, excess, at)) / excess.residual_unit.numpy()
    found = excess.neighbours(joined(norms, at), NOBODY)
    np.testing.assert_allclose(found.statistic, expected.max(1), atol=1e-4)
    assert found.nearest.shape == (50, 0)


@pytest.mark.parametrize("count", [12, 60])
def test_a_member_is_judged_by_the_regression_without_it(count: int) -> None:
    log_norms, details = measured(count)
    excess = Excess._of(log_norms, details, torch.arange(count))
    residuals = []
    for row in range(count):
        others = torch.arange(count) != row
        expected = by_scikit_learn(log_norms[others], details[others], excess, details[row : row + 1])
        residuals.append(log_norms[row].double() - torch.from_numpy(expected[0]).double())
    unit = spread(torch.stack(residuals))
    torch.testing.assert_close(excess.residual_unit, unit, rtol=1e-4, atol=1e-5)
    values = (torch.stack(residuals) / unit).amax(1).float()
    torch.testing.assert_close(excess.values, values, rtol=1e-3, atol=1e-3)
    found = excess.neighbours(joined(log_norms, details), torch.arange(count))
    assert torch.equal(found.statistic, excess.values)


def test_more_noise_than_the_details_explain_is_unusual_at_any_level_and_less_is_not() -> None:
    excess = Excess.of(*measured(500))
    norms, at = measured(50, seed=1)
    usual = excess.neighbours(joined(norms, at), NOBODY).statistic
    for level in range(3):
        more, less = (norms + sign * torch.eye(3)[level] for sign in (1.0, -1.0))
        p_values = (-excess.null.surprise(excess.neighbours(joined(more, at), NOBODY).statistic)).exp()
        assert (p_values < 0.01).all()
        assert (excess.neighbours(joined(less, at), NOBODY).statistic <= usual).all()
    steps = torch.tensor([[-1.5, -5.0, -0.1, -1.0], [1.5, 5.0, 0.1, 1.0]])  # to few details and to many
    explained = steps @ excess.weights[1:].div(excess.unit[:, None])
    smooth_and_rough = joined(norms.mean(0) + explained, at.mean(0) + steps)
    assert (excess.neighbours(smooth_and_rough, NOBODY[:2]).statistic < usual.median()).all()


def test_p_values_of_new_images_are_uniform_and_a_tenth_of_outliers_hardly_changes_them() -> None:
    log_norms, details = measured(1000)
    norms, at = measured(2000, seed=1)
    nobody = torch.full((2000,), -1)
    mixed = torch.cat([log_norms[:900], log_norms[900:] + 3])
    for known, tolerance in ((log_norms, 0.03), (mixed, 0.12)):
        excess = Excess.of(known, details)
        found = (-excess.null.surprise(excess.neighbours(joined(norms, at), nobody).statistic)).exp()
        for share in (0.5, 0.2):
            assert float((found <= share).double().mean()) == pytest.approx(share, abs=tolerance)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_few_images_and_equal_ones_have_a_finite_statistic(count: int) -> None:
    log_norms, details = measured(count)
    for known in ((log_norms, details), (log_norms[:1].expand(count, -1), details[:1].expand(count, -1))):
        excess = Excess.of(*known)
        assert len(excess) == count
        assert excess.values.isfinite().all()
        assert excess.neighbours(joined(*measured(1, seed=4)), NOBODY[:1]).statistic.isfinite().all()
