"""The arc: levels and angles as exact numbers, points and velocities as rotations, energies and scores of Gaussians."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import MIXTURES, STD, ExactNetwork, Mixture, draw_at
from torch import Tensor
from torch.distributions import Normal

from vpfb_core.methods.path import arc
from vpfb_core.methods.path.arc import ArcPosition

LEVELS = (1e-6, 1.7e-4, 2e-3, 0.1, 1 / 3, 1.0, math.sqrt(3), 31.6, 1e5)
DIGITS = 1e-15  # a few roundings of float64

# The angle of which the level is the cotangent.
KNOWN_ANGLES = {
    1.0: math.pi / 4,
    math.sqrt(3): math.pi / 6,
    1 / math.sqrt(3): math.pi / 3,
    1 + math.sqrt(2): math.pi / 8,
}


def exact(level: float) -> tuple[float, float, float]:
    """(sine, cosine, tangent) at a level, by Pythagoras in fifty digits."""
    with localcontext() as context:
        context.prec = 50
        noise = Decimal(level)
        length = (1 + noise * noise).sqrt()
        return float(1 / length), float(noise / length), float(1 / noise)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_sine_cosine_and_tangent_of_a_level_are_exact_to_float64(level: float) -> None:
    place = ArcPosition.at_level(level)
    assert (place.sine, place.cosine, place.tangent) == pytest.approx(exact(level), rel=DIGITS, abs=0)


@pytest.mark.parametrize("level", KNOWN_ANGLES)
def test_the_angle_of_a_level_is_the_one_whose_cotangent_it_is(level: float) -> None:
    angle = KNOWN_ANGLES[level]
    assert arc.angle(level) == pytest.approx(angle, rel=DIGITS, abs=0)
    assert ArcPosition.at_level(level).angle == arc.angle(level)
    assert arc.level(angle) == pytest.approx(level, rel=DIGITS, abs=0)


def test_the_angle_of_a_small_level_is_short_of_the_right_angle_by_the_level() -> None:
    for level in (1e-6, 1e-5):
        assert math.pi / 2 - arc.angle(level) == pytest.approx(level, rel=1e-9)


@pytest.mark.parametrize("level", [level for level in LEVELS if level >= 1])
def test_a_level_of_much_noise_comes_back_from_its_angle(level: float) -> None:
    assert arc.level(arc.angle(level)) == pytest.approx(level, rel=DIGITS, abs=0)


@pytest.mark.parametrize("level", LEVELS)
def test_an_angle_comes_back_from_its_level(level: float) -> None:
    angle = arc.angle(level)
    assert arc.angle(arc.level(angle)) == pytest.approx(angle, rel=DIGITS, abs=0)


@pytest.mark.parametrize("complement", [1e-6, 2e-4, 0.1])
def test_the_level_of_an_angle_near_the_right_angle_keeps_every_digit_of_the_angle(complement: float) -> None:
    """cot(π/2 − δ) = tan δ; the float64 nearest π/2 is short of it by 6.123e-17, which counts at δ = 1e-6."""
    angle = math.pi / 2 - complement
    short = (math.pi / 2 - angle) + 6.123233995736766e-17
    assert arc.level(angle) == pytest.approx(math.tan(short), rel=DIGITS, abs=0)


def test_an_infinite_level_is_pure_noise_at_the_angle_zero() -> None:
    assert ArcPosition.at_level(math.inf) == ArcPosition(angle=0.0, sine=0.0, cosine=1.0, tangent=0.0)
    assert arc.angle(math.inf) == 0
    assert arc.level(0.0) == math.inf


# --- points -----------------------------------------------------------------------------------------------------------


def draws(n: int = 200, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """(z, φ, ε), float64."""
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn((2, n, *(shape or (3,))), generator=generator, dtype=torch.float64)
    return z, torch.linspace(0, math.pi / 2 - 1e-6, n, dtype=torch.float64), noise


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_velocity_and_point_are_data_and_noise_turned_by_the_angle(shape: tuple[int, ...]) -> None:
    """y + iu = (z + iε) exp(iφ), for vectors and for images."""
    z, angle, noise = draws(50, *shape)
    u, y = arc.point(z, angle, noise)
    turn = np.exp(1j * angle.numpy()).reshape(-1, *[1] * len(shape))
    turned = (z.numpy() + 1j * noise.numpy()) * turn
    np.testing.assert_allclose(y.numpy() + 1j * u.numpy(), turned, rtol=0, atol=1e-14)


def test_velocity_is_the_derivative_of_the_point_in_the_angle() -> None:
    z, angle, noise = draws()
    u, y = arc.point(z, angle.requires_grad_(), noise)
    rates = [torch.autograd.grad(component.sum(), angle, retain_graph=True)[0] for component in u.unbind(1)]
    torch.testing.assert_close(y, torch.stack(rates, 1))


def test_a_point_is_noise_at_the_start_and_moves_towards_the_data() -> None:
    z, _, noise = draws()
    u, y = arc.point(z, torch.zeros(len(z), dtype=torch.float64), noise)
    torch.testing.assert_close(u, noise, rtol=0, atol=0)
    torch.testing.assert_close(y, z, rtol=0, atol=0)


def test_innovation_is_the_derivative_of_the_conditional_log_density_in_the_angle() -> None:
    z, angle, noise = draws(50, 2, 3)
    u, _ = arc.point(z, angle, noise)
    turned = angle.clone().requires_grad_()
    sine, cosine = (function(turned)[:, None, None] for function in (torch.sin, torch.cos))
    (exact,) = torch.autograd.grad(Normal(sine * z, cosine).log_prob(u).sum(), turned)
    torch.testing.assert_close(arc.innovation(z, angle, noise), exact, rtol=1e-6, atol=1e-9)


def test_innovation_has_mean_zero_given_the_datum() -> None:
    # Gauss–Hermite quadrature is exact for the quadratic polynomial that the innovation is in ε.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    noise = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    weight = torch.outer(torch.tensor(weights), torch.tensor(weights)).flatten() / (2 * math.pi)
    z = torch.tensor([[0.7, -1.9]], dtype=torch.float64).expand(9, 2)
    for angle in (0.0, 0.5, 1.2, 1.57):
        innovation = arc.innovation(z, torch.full((9,), angle, dtype=torch.float64), noise)
        assert abs((weight * innovation).sum().item()) < 1e-12 * (1 + innovation.abs().max().item())


# --- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.57), (0.2, 1.4), (1.57, 0.0), (1.4, 0.2)])
def test_grid_runs_from_end_to_end_and_is_finer_towards_both(start: float, end: float) -> None:
    grid = arc.grid(start, end, 10)
    assert len(grid) == 11
    assert (grid[0], grid[-1]) == (start, end)
    steps = [abs(b - a) for a, b in pairwise(grid)]
    widest = steps.index(max(steps))
    assert 2 < widest < 8
    assert steps[: widest + 1] == sorted(steps[: widest + 1])
    assert steps[widest:] == sorted(steps[widest:], reverse=True)
    assert min(steps) > max(steps) / 4


def test_grid_of_the_way_back_is_that_of_the_way_there() -> None:
    assert arc.grid(1.5, 0.1, 7) == arc.grid(0.1, 1.5, 7)[::-1]


# --- energies and scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variance", [0.2, 1.0, 1.8])
def test_energy_and_score_of_gaussian_data_are_those_of_the_gaussian_at_that_level(
    variance: float, level: float
) -> None:
    """z ~ N(0, v): u has the variance s² = v sin² φ + cos² φ, and its flow u ∝ s has N = ½ (log s)' ‖u‖²."""
    u = draws()[0]
    place = ArcPosition.at_level(level)
    spread = (variance + level**2) / (1 + level**2)
    rate = (variance - 1) * place.sine * place.cosine / spread
    energy, score = place.energy(u, 0.5 * rate * u.square().sum(1)), place.score(u, rate * u)
    # 1 − (1 − v) sin² φ/s² loses the digits that 1/s² has more than 1.
    torch.testing.assert_close(energy, 0.5 * u.square().sum(1) / spread, rtol=1e-13, atol=0)
    torch.testing.assert_close(score, -u / spread, rtol=1e-13, atol=0)


@pytest.mark.parametrize("level", [0.1, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())
def test_energy_and_score_of_a_mixture_are_those_of_its_log_density(mixture: Mixture, level: float) -> None:
    u, place = draw_at(mixture, level, 40).requires_grad_(), ArcPosition.at_level(level)
    value = ExactNetwork(mixture)(u, torch.full((40,), place.angle, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), u)
    mean, std = torch.tensor([place.sine / STD, place.cosine], dtype=torch.float64)
    constant = 0.5 * mixture.dimension * math.log(2 * math.pi)
    exact_energy = -mixture.log_density(u, mean, std) - constant
    torch.testing.assert_close(place.energy(u, value), exact_energy, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(place.score(u, gradient), mixture.score(u, mean, std), rtol=1e-8, atol=1e-8)


def test_energy_at_pure_noise_is_that_of_the_standard_normal_whatever_the_potential() -> None:
    u, place = draws()[0], ArcPosition.at_level(math.inf)
    torch.testing.assert_close(place.energy(u, 7 * u[:, 0]), 0.5 * u.square().sum(1))
    torch.testing.assert_close(place.score(u, 7 * u), -u)
