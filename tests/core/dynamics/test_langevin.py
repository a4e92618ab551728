"""Langevin chains on densities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from problems import MIXTURES, STD, ExactNetwork, Mixture, anisotropic, correlated_gaussian
from torch import Tensor

from vpfb_core.dynamics.langevin import SCALES, Target, langevin
from vpfb_core.errors import ConfigError, SolverError
from vpfb_core.methods.guidance import arc_density
from vpfb_core.methods.vpfb.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential

N = 1200


def density_of(mixture: Mixture) -> Target:
    return arc_density(Potential(ExactNetwork(mixture), OT(), STD))


def on_arc(mixture: Mixture, level: float, n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Exact samples u of the mixture at cot φ = level, and φ, (n,)."""
    draws = torch.Generator().manual_seed(seed)
    z = mixture.sample(n, draws) / mixture.std
    angle = math.atan(1 / level)
    u = math.sin(angle) * z + math.cos(angle) * torch.randn(z.shape, generator=draws, dtype=torch.float64)
    return u, u.new_full((n,), angle)


def covariance_on_arc(mixture: Mixture, level: float) -> Tensor:
    angle = math.atan(1 / level)
    spread = mixture.covariance / mixture.std**2
    return math.sin(angle) ** 2 * spread + math.cos(angle) ** 2 * torch.eye(mixture.dimension, dtype=torch.float64)


def assert_mean_and_covariance(u: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within four standard errors, of chains that are independent of each other."""
    errors = u.std(0) / math.sqrt(len(u))
    assert ((u.mean(0) - mean).abs() < 4 * errors).all(), (u.mean(0), mean, errors)
    centred = u - mean
    products = centred[:, :, None] * centred[:, None]
    errors = products.std(0) / math.sqrt(len(u))
    assert ((products.mean(0) - covariance).abs() < 4 * errors).all(), (products.mean(0), covariance, errors)


def standard_normal(u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return -0.5 * u.square().sum(1), -u


# --- the stationary density -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2.0, 0.3, 0.1])
@pytest.mark.parametrize("name", ["anisotropic", "scattered"])
def test_exact_samples_stay_exact_under_mala_and_move(name: str, level: float) -> None:
    mixture = MIXTURES[name]
    u, angle = on_arc(mixture, level)
    walk = langevin(density_of(mixture), u, angle, steps=40, seed=1, stream="test", scale=2.0)
    mean = torch.zeros(mixture.dimension, dtype=torch.float64)
    assert_mean_and_covariance(walk.u, mean, covariance_on_arc(mixture, level))
    # Third moments tell a mixture from the Gaussian of its covariance.
    cubes, exact = walk.u**3, on_arc(mixture, level, 100_000, seed=5)[0] ** 3
    assert ((cubes.mean(0) - exact.mean(0)).abs() < 4 * cubes.std(0) / math.sqrt(N)).all()
    assert (walk.u - u).abs().mean() > 0.3 * math.cos(math.atan(1 / level))


def test_chains_from_one_far_point_come_to_the_exact_mean_and_covariance() -> None:
    mixture, level = correlated_gaussian(0.8), 0.7
    angle = torch.full((N,), math.atan(1 / level), dtype=torch.float64)
    start = torch.tensor([3.0, -3.0], dtype=torch.float64).expand(N, 2)
    walk = langevin(density_of(mixture), start, angle, steps=60, seed=0, stream="burn-in", adapt=True)
    walk = langevin(density_of(mixture), walk.u, angle, steps=100, seed=0, stream="test", scale=walk.step_scale)
    assert_mean_and_covariance(walk.u, torch.zeros(2, dtype=torch.float64), covariance_on_arc(mixture, level))


def test_chains_from_one_mode_come_to_all_of_them_in_their_proportions() -> None:
    mixture, level = anisotropic(), 1.0
    angle = torch.full((N,), math.atan(1 / level), dtype=torch.float64)
    start = torch.tensor([-0.2, -1.2], dtype=torch.float64).expand(N, 2)
    walk = langevin(density_of(mixture), start, angle, steps=150, seed=0, stream="test", scale=2.0)
    exact, _ = on_arc(mixture, level, 100_000)
    for direction in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        along = torch.tensor(direction, dtype=torch.float64)
        share, truth = (walk.u @ along > 0.5).double().mean(), (exact @ along > 0.5).double().mean()
        assert abs(share - truth) < 4 * math.sqrt(truth * (1 - truth) / N)


def test_ula_has_the_bias_of_its_step_and_mala_has_none() -> None:
    # u' = (1 − η) u + √(2η) ξ is stationary at the variance 1/(1 − η/2) instead of 1.
    eta, angle = 0.8, torch.zeros(4000, dtype=torch.float64)
    start, scale = torch.zeros(4000, 2, dtype=torch.float64), eta * 2 ** (1 / 3)
    walks = {
        method: langevin(standard_normal, start, angle, steps=40, seed=0, stream="test", scale=scale, method=method)
        for method in ("ula", "mala")
    }
    mean, unit = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    assert_mean_and_covariance(walks["ula"].u, mean, unit / (1 - eta / 2))
    assert_mean_and_covariance(walks["mala"].u, mean, unit)
    assert walks["ula"].acceptance == 1
    assert 0.5 < walks["mala"].acceptance < 1


def test_a_density_with_an_edge_is_never_left() -> None:
    def box(u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        inside = (u.abs() < 1).all(1)
        return torch.where(inside, 0.0, -math.inf), torch.where(inside[:, None], 0.0, math.nan).expand_as(u)

    walk = langevin(box, torch.zeros(N, 2), torch.zeros(N), steps=60, seed=0, stream="test", scale=0.5)
    assert (walk.u.abs() < 1).all()
    assert_mean_and_covariance(walk.u.double(), torch.zeros(2), torch.eye(2) / 3)


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.3, 0.9])
def test_a_step_in_x_is_c_times_the_noise_variance_over_the_cube_root_of_the_dimension(t: float) -> None:
    d, n, c = 8, 4000, 1.7
    slope = torch.linspace(-40, 40, d, dtype=torch.float64)
    potential = Potential(ExactNetwork(correlated_gaussian()), OT(0.01), STD)
    scale, angle = potential.scale(t), potential.angle(t).expand(n)
    # The score of x is slope, so the score of u = x/S is S slope.
    walk = langevin(
        lambda u, angle: (scale * u @ slope, scale * slope.expand_as(u)),
        torch.zeros(n, d, dtype=torch.float64), angle, steps=1, seed=0, stream="test", scale=c, method="ula",
    )  # fmt: skip
    eta = c * potential.homotopy.std(t) ** 2 * d ** (-1 / 3)
    assert_mean_and_covariance(scale * walk.u, eta * slope, 2 * eta * torch.eye(d, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.02, 1.0, 20.0])
@pytest.mark.parametrize(("name", "level"), [("ring", 0.1), ("scattered", 0.3), ("anisotropic", 1.0)])
def test_burn_in_finds_a_step_that_is_accepted_about_half_of_the_time(name: str, level: float, scale: float) -> None:
    target = density_of(MIXTURES[name])
    u, angle = on_arc(MIXTURES[name], level, 100)
    burnt = langevin(target, u, angle, steps=100, seed=0, stream="burn-in", scale=scale, adapt=True)
    walk = langevin(target, burnt.u, angle, steps=60, seed=0, stream="test", scale=burnt.step_scale)
    assert 0.4 < walk.acceptance < 0.75
    assert torch.equal(walk.step_scale, burnt.step_scale), "then it is fixed"
    assert burnt.step_scale.min() >= SCALES[0]
    assert burnt.step_scale.max() <= SCALES[1]


# --- masks ------------------------------------------------------------------------------------------------------------


def test_a_masked_chain_draws_the_free_part_given_the_rest() -> None:
    correlation, fixed = 0.8, 1.5
    mixture, level = correlated_gaussian(correlation), 0.5
    covariance = covariance_on_arc(mixture, level)
    angle = torch.full((N,), math.atan(1 / level), dtype=torch.float64)
    start = torch.tensor([fixed, -2.0], dtype=torch.float64).expand(N, 2)
    walk = langevin(
        density_of(mixture), start, angle, steps=120, seed=0, stream="test", scale=2.0, mask=torch.tensor([0, 1])
    )
    assert (walk.u[:, 0] == fixed).all()
    slope = covariance[0, 1] / covariance[0, 0]
    variance = covariance[1, 1] - slope * covariance[0, 1]
    assert_mean_and_covariance(walk.u[:, 1:], slope * fixed, variance.reshape(1, 1))


def test_the_step_of_a_masked_chain_counts_free_pixels_only() -> None:
    n = 4000
    mask = torch.zeros(3, 3, 3)
    mask[:, 0, :2] = 1
    walk = langevin(
        lambda u, angle: (0 * u.flatten(1).sum(1), 0 * u),
        torch.zeros(n, 3, 3, 3), torch.zeros(n), steps=1, seed=0, stream="test", mask=mask, method="ula",
    )  # fmt: skip
    assert (walk.u[:, mask == 0] == 0).all()
    variance, exact = walk.u[:, mask == 1].double().square().mean(), 2 * 6 ** (-1 / 3)
    assert abs(variance - exact) < 4 * exact * math.sqrt(2 / (6 * n))


# --- noise, traces, errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [False, True])
def test_a_chain_does_not_depend_on_the_others_of_its_batch(adapt: bool) -> None:
    mixture = MIXTURES["scattered"]
    u, angle = on_arc(mixture, 0.3, 6)
    target, settings = density_of(mixture), {"steps": 50, "seed": 3, "stream": "test", "adapt": adapt}
    whole = langevin(target, u, angle, **settings)
    for i in range(6):
        alone = langevin(target, u[i : i + 1], angle[i : i + 1], first=i, **settings)
        torch.testing.assert_close(alone.u[0], whole.u[i], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.step_scale[0], whole.step_scale[i])


def test_a_longer_chain_begins_as_the_shorter_one_did() -> None:
    u, angle = on_arc(anisotropic(), 0.3, 5)
    target = density_of(anisotropic())
    short, long = (langevin(target, u, angle, steps=steps, seed=0, stream="test") for steps in (7, 70))
    assert torch.equal(long.trace[:8], short.trace)


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "other"}, {"first": 5}])
def test_seeds_streams_and_indices_give_different_chains(other: dict[str, object]) -> None:
    u, angle = on_arc(anisotropic(), 0.3, 5)
    call = {"steps": 3, "seed": 0, "stream": "test", "method": "ula"}
    before = torch.get_rng_state()
    one, two = (langevin(density_of(anisotropic()), u, angle, **settings) for settings in (call, call | other))
    assert not torch.isclose(one.u, two.u).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trace_holds_the_mean_log_density_from_the_start_to_the_end() -> None:
    mixture = anisotropic()
    u, angle = on_arc(mixture, 0.3, 50)
    seen: list[int] = []
    walk = langevin(density_of(mixture), u, angle, steps=9, seed=0, stream="test", on_step=seen.append)
    level = math.atan(1 / 0.3)
    mean, std = torch.tensor(math.sin(level) / STD), torch.tensor(math.cos(level))
    exact = torch.stack([mixture.log_density(points, mean, std).mean() for points in (u, walk.u)])
    torch.testing.assert_close(walk.trace[[0, -1]] - math.log(2 * math.pi), exact)
    torch.testing.assert_close(walk.trace[-1], walk.log_density.mean())
    assert (len(walk.trace), walk.evaluations, seen) == (10, 10, list(range(1, 10)))


def test_what_cannot_be_walked_is_refused() -> None:
    u, angle = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(ConfigError, match="steps = 0"):
        langevin(standard_normal, u, angle, steps=0, seed=0, stream="test")
    with pytest.raises(ConfigError, match="hmc") as caught:
        langevin(standard_normal, u, angle, steps=1, seed=0, stream="test", method="hmc")
    assert caught.value.hint is not None
    assert "mala" in caught.value.hint
    with pytest.raises(SolverError, match="2 of 3 starting points"):
        langevin(
            lambda u, angle: (torch.tensor([math.nan, 0, math.inf]), 0 * u), u, angle, steps=1, seed=0, stream="test"
        )
    with pytest.raises(SolverError, match="3 of 3 chains left the finite numbers"):
        langevin(
            lambda u, angle: (-u.pow(4).sum(1), -4 * u**3), u + 9, angle, steps=9, seed=0, stream="test", method="ula"
        )
