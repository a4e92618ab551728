"""Short trainings on the mixture of eight Gaussians, whose density, score and moments are known."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from problems import draw, ring

from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.transport import decode
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

MIXTURE = ring(std=1.0)


@pytest.fixture(scope="module")
def mixture2d() -> ModuleType:
    """benchmarks/mixture2d.py, whose training is the one measured there."""
    path = Path(__file__).parents[4] / "benchmarks" / "mixture2d.py"
    spec = importlib.util.spec_from_file_location("mixture2d", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mixture2d"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def learned(mixture2d: ModuleType) -> Potential:
    """Trained for a few seconds."""
    return mixture2d.train(MIXTURE, OT(), mixture2d.Settings(steps=400, batch=128))


@pytest.mark.parametrize(("t", "error", "correlation"), [(0.5, 0.05, 0.998), (0.7, 0.15, 0.97)])
def test_short_training_learns_the_log_density_and_the_score(
    mixture2d: ModuleType, learned: Potential, t: float, error: float, correlation: float
) -> None:
    # Untrained, N = 0 errs by 0.14 and 0.53 nats; a full training, below, by hundredths.
    accuracy = mixture2d.compare(learned, MIXTURE, t)
    assert accuracy.log_density_error < error
    assert accuracy.score_correlation > correlation


@pytest.mark.parametrize("t", [0.3, 0.5, 0.9])
def test_error_of_an_untrained_potential_is_that_of_the_gaussian_it_starts_from(
    mixture2d: ModuleType, t: float
) -> None:
    untrained = mixture2d.train(MIXTURE, OT(), mixture2d.Settings(steps=0))
    x, times = draw(MIXTURE, OT(), t, 8192, seed=1)
    mean, std = OT().mean(times), OT().std(times)
    gaussian = torch.distributions.Normal(0.0, torch.hypot(mean, std)[:, None]).log_prob(x).sum(1)
    error = (gaussian - MIXTURE.log_density(x, mean, std)).std()
    assert mixture2d.compare(untrained, MIXTURE, t).log_density_error == pytest.approx(error.item(), rel=1e-4)


def test_samples_of_a_short_training_have_the_moments_of_the_data(learned: Potential) -> None:
    n = 4000
    z = (
        decode(PotentialField(learned), torch.randn(n, 2, generator=torch.Generator().manual_seed(0)))
        .require_success()
        .x
    )
    # Training errs by a few hundredths, on top of what is expected of the draw.
    assert (z.mean(0).abs() < 0.05 + 4 / math.sqrt(n)).all()
    covariance = torch.cov(z.T)
    torch.testing.assert_close(covariance, torch.eye(2), rtol=0, atol=0.1)
    # The modes stand on a circle: a Gaussian of the same moments would have E‖z‖⁴ = 8.
    fourth = z.square().sum(1).square().mean()
    radius, spread = MIXTURE.means[0].norm(), MIXTURE.variances[0, 0].sqrt()
    exact = radius**4 + 8 * radius**2 * spread**2 + 8 * spread**4
    assert abs(fourth - exact) < 0.1 * exact
    assert exact < 5


@pytest.mark.slow
def test_full_training_learns_the_log_density_to_hundredths_of_a_nat(mixture2d: ModuleType) -> None:
    potential = mixture2d.train(MIXTURE, OT(), mixture2d.Settings(steps=3000, batch=512))
    assert mixture2d.compare(potential, MIXTURE, 0.5).log_density_error <= 0.02
    assert mixture2d.compare(potential, MIXTURE, 0.9).log_density_error <= 0.15
