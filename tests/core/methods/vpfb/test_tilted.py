"""Tilted potentials against mixtures whose tilted density is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import Mixture, anisotropic, draw_at, exact_field, isotropic_gaussian, scattered
from scipy import stats
from torch import Tensor

from vpfb_core.dynamics.solver import Solver
from vpfb_core.methods import transport
from vpfb_core.methods.path import arc
from vpfb_core.methods.vpfb import tilted as tilted_module
from vpfb_core.methods.vpfb.method import VPFB, VPFBSettings
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.methods.vpfb.tilted import LEAST_SINE, TiltedPotential

LEVELS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.02)
MIXTURES = {"anisotropic": anisotropic(), "scattered": scattered()}


def direction_of(mixture: Mixture) -> Tensor:
    return torch.linspace(1.4, -0.9, mixture.dimension, dtype=torch.float64)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MIXTURES)
def test_densities_scores_and_velocities_are_those_of_the_tilted_mixture(name: str, level: float) -> None:
    mixture = MIXTURES[name]
    field, direction = exact_field(mixture), direction_of(mixture)
    tilted_field = VPFB(VPFBSettings()).tilted(field, direction)
    tilted, log_partition = mixture.tilted(direction)
    u = draw_at(tilted, level, 64)
    sine, cosine = 1 / math.hypot(1, level), level / math.hypot(1, level)
    mean, std = torch.tensor(sine / mixture.std, dtype=torch.float64), torch.tensor(cosine, dtype=torch.float64)
    energy, score, velocity = tilted_field.energy_score_and_velocity(u, level)
    # The exact potential has the constant of the Gaussian at every level.
    log_density = -energy - 0.5 * mixture.dimension * math.log(2 * math.pi) - log_partition
    torch.testing.assert_close(log_density, tilted.log_density(u, mean, std), rtol=0, atol=1e-10)
    torch.testing.assert_close(score, tilted.score(u, mean, std), rtol=0, atol=1e-10)
    angles = torch.full((64,), arc.angle(level), dtype=torch.float64)
    torch.testing.assert_close(velocity, tilted.arc_velocity(u, angles), rtol=0, atol=1e-10)
    torch.testing.assert_close(tilted_field.energy(u, level), energy, rtol=0, atol=1e-12)


def test_below_the_least_sine_the_field_is_that_of_a_shorter_direction() -> None:
    mixture, sine = anisotropic(), LEAST_SINE / 3
    direction = direction_of(mixture)
    tilted, _ = mixture.tilted(direction / 3)
    angles = torch.full((16,), math.asin(sine), dtype=torch.float64)
    u = draw_at(tilted, 1 / math.tan(math.asin(sine)), 16)
    velocity = VPFB(VPFBSettings()).tilted(exact_field(mixture), direction).velocity(u, angles)
    torch.testing.assert_close(velocity, tilted.arc_velocity(u, angles), rtol=0, atol=1e-10)


def test_the_tilt_of_gaussian_data_moves_its_samples_by_the_direction() -> None:
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    field = VPFB(VPFBSettings()).tilted(exact_field(isotropic_gaussian(3)), direction)
    codes = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = transport.decode(field, codes, solver=Solver.choose("dopri5", rtol=1e-9, atol=1e-9)).require_success().x
    _, end = field.span
    # The velocity is cos φ ℓ, and sin φ/s times that below sin φ = s, so that half of s is missing.
    expected = codes + (math.sin(end) - LEAST_SINE / 2) * direction
    torch.testing.assert_close(ends, expected, rtol=0, atol=1e-6)


def test_the_flow_of_an_exact_potential_has_the_moments_of_the_tilted_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tilted_module, "LEAST_SINE", 1e-6)  # an exact potential is known everywhere
    mixture = anisotropic()
    direction = direction_of(mixture)
    tilted, _ = mixture.tilted(direction)
    points = stats.qmc.Sobol(2, seed=0).random(4096)
    codes = torch.tensor(stats.norm.ppf(points))
    field = VPFB(VPFBSettings()).tilted(exact_field(mixture), direction)
    ends = transport.decode(field, codes).require_success().x.numpy()
    mean = (tilted.weights @ tilted.means / mixture.std).numpy()
    second = tilted.covariance.numpy() / mixture.std**2  # about zero, since the mean is not subtracted
    np.testing.assert_allclose(ends.mean(0), mean, atol=4e-3)
    np.testing.assert_allclose(ends.T @ ends / len(ends), second, atol=8e-3)


def test_the_tensors_of_a_tilted_potential_have_the_names_of_the_potential() -> None:
    potential = Potential(torch.nn.Linear(2, 2), exact_field(anisotropic()).potential.homotopy)
    tilted = TiltedPotential(potential, torch.ones(2))
    assert tilted.state_dict().keys() == potential.state_dict().keys()
    assert next(tilted.parameters()) is next(potential.parameters())
