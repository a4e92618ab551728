"""The likelihood by the flow, against densities known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from problems import MIXTURES, Mixture, anisotropic, correlated_gaussian, draw_at, exact_field, ring, scattered
from torch import Tensor, nn

from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import SolverError
from vpfb_core.machine import noise
from vpfb_core.methods.likelihood import log_likelihood, velocity_and_divergence
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

PRECISE = Solver.choose("dopri5", rtol=1e-5)


def density(mixture: Mixture, u: Tensor, angle: float) -> Tensor:
    sine, cosine = torch.tensor(math.sin(angle)), torch.tensor(math.cos(angle))
    return mixture.log_density(u, sine / mixture.std, cosine)


@pytest.mark.parametrize("name", MIXTURES)
def test_likelihood_of_the_exact_potential_is_the_exact_density(name: str) -> None:
    mixture = MIXTURES[name]
    angle, u = math.atan(10.0), draw_at(mixture, 0.1, 6)
    found = log_likelihood(exact_field(mixture), u, [angle], solver=PRECISE)
    torch.testing.assert_close(found.log_density[0], density(mixture, u, angle), rtol=0, atol=3e-4)


def test_one_encoding_gives_the_density_at_every_position_that_it_passes() -> None:
    mixture, angles = ring(), [math.atan(tangent) for tangent in (8.0, 2.0, 0.5)]
    u = draw_at(mixture, 1 / 8, 4)
    found = log_likelihood(exact_field(mixture), u, angles, solver=PRECISE)
    assert torch.equal(found.x[0], u)
    for angle, passed, log_density in zip(angles, found.x, found.log_density, strict=True):
        torch.testing.assert_close(log_density, density(mixture, passed, angle), rtol=0, atol=3e-4)


def test_codes_of_a_gaussian_are_the_whitened_points() -> None:
    """The flow of one Gaussian is linear: u₀ = (sin² φ Q + cos² φ I)^(−½) u for data of covariance Q."""
    mixture, angle = correlated_gaussian(0.8), math.atan(5.0)
    u = draw_at(mixture, 0.2, 8)
    covariance = math.sin(angle) ** 2 * mixture.covariance / mixture.std**2 + math.cos(angle) ** 2 * torch.eye(2)
    variances, axes = torch.linalg.eigh(covariance)
    whitened = u @ axes @ torch.diag(variances.rsqrt()) @ axes.T
    found = log_likelihood(exact_field(mixture), u, [angle, 0.0], solver=PRECISE)
    torch.testing.assert_close(found.x[1], whitened, rtol=0, atol=3e-4)


def test_divergence_of_a_quadratic_potential_is_the_trace_of_its_matrix() -> None:
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix + matrix.T

    class Quadratic(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return 0.5 * ((u @ matrix) * u).sum(1)

    field, s = PotentialField(Potential(Quadratic(), OT())), torch.ones(3, dtype=torch.float64)
    u = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    velocity, divergence = velocity_and_divergence(field, u, s)
    torch.testing.assert_close(velocity, u @ matrix)
    torch.testing.assert_close(divergence, matrix.trace().expand(3))
    # One probe sees vᵀ A v; the four sign patterns of a Hadamard matrix together see the trace of a 4×4 block.
    signs = torch.tensor([[1, 1, 1, 1, 1], [1, -1, 1, -1, 1], [1, 1, -1, -1, 1], [1, -1, -1, 1, 1]]).double()
    one = velocity_and_divergence(field, u, s, probes=signs[:1].expand(3, 1, 5))[1]
    torch.testing.assert_close(one, matrix.sum().expand(3))
    block = signs * torch.tensor([1.0, 1, 1, 1, 0])
    four = velocity_and_divergence(field, u, s, probes=block.expand(3, 4, 5))[1]
    torch.testing.assert_close(four, matrix[:4, :4].trace().expand(3))


def test_hutchinsons_estimate_has_the_exact_density_as_its_mean() -> None:
    mixture, angle, n = scattered(5), math.atan(3.0), 400
    u, probes = draw_at(mixture, 1 / 3, 1), noise.signs((1, 5), 0, range(n), "probes")
    found = log_likelihood(exact_field(mixture), u.expand(n, -1), [angle], probes=probes).log_density[0]
    error = found - density(mixture, u, angle)
    assert error.std() > 1e-3, "or nothing was estimated"
    assert error.mean().abs() < 4 * error.std() / math.sqrt(n) + 1e-3


def test_likelihood_of_a_point_does_not_depend_on_its_batch() -> None:
    field, angle = exact_field(anisotropic()), math.atan(4.0)
    u = draw_at(anisotropic(), 0.25, 3)
    together = log_likelihood(field, u, [angle])
    alone = [log_likelihood(field, row[None], [angle]) for row in u]
    torch.testing.assert_close(together.log_density[0], torch.cat([one.log_density[0] for one in alone]))


def test_an_encoding_that_goes_astray_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return u.sum(1) * torch.nan

    with pytest.raises(SolverError, match="2 of 2"):
        log_likelihood(PotentialField(Potential(Broken(), OT())), torch.zeros(2, 2), [1.0])
