"""Langevin chains on densities that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import MIXTURES, STD, Mixture, anisotropic, correlated_gaussian, draw_at, exact_field
from torch import Tensor

from vpfb_core.dynamics.langevin import SCALES, Target, Walk, langevin
from vpfb_core.errors import ConfigError, SolverError

N = 1200


def walk_in(mixture: Mixture, level: float, x: Tensor, steps: int, **asked: Any) -> Walk:
    """A walk in the exact density of the mixture at a noise level."""
    field = exact_field(mixture)
    settings: dict[str, Any] = {"seed": 0, "stream": "test"} | asked
    return langevin(lambda x: field.energy_and_score(x, level), x, noise_variance(level), steps=steps, **settings)


def noise_variance(level: float) -> float:
    """Of the noise in points of unit variance at this ratio of noise to data."""
    return level**2 / (1 + level**2)


def covariance_at(mixture: Mixture, level: float) -> Tensor:
    unit = torch.eye(mixture.dimension, dtype=torch.float64)
    return (mixture.covariance / mixture.std**2 + level**2 * unit) / (1 + level**2)


def assert_mean_and_covariance(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within four standard errors, of chains that are independent of each other."""
    errors = x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - mean).abs() < 4 * errors).all(), (x.mean(0), mean, errors)
    centred = x - mean
    products = centred[:, :, None] * centred[:, None]
    errors = products.std(0) / math.sqrt(len(x))
    assert ((products.mean(0) - covariance).abs() < 4 * errors).all(), (products.mean(0), covariance, errors)


def standard_normal(x: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * x.square().sum(1), -x


def along(slope: Tensor) -> Target:
    """A density that grows exponentially along a slope."""
    return lambda x: (-x @ slope, slope.expand_as(x))


# --- the stationary density -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2.0, 0.3, 0.1])
@pytest.mark.parametrize("name", ["anisotropic", "scattered"])
def test_exact_samples_stay_exact_under_mala_and_move(name: str, level: float) -> None:
    mixture = MIXTURES[name]
    x = draw_at(mixture, level, N)
    walk = walk_in(mixture, level, x, 40, seed=1, scale=2.0)
    mean = torch.zeros(mixture.dimension, dtype=torch.float64)
    assert_mean_and_covariance(walk.x, mean, covariance_at(mixture, level))
    # Third moments tell a mixture from the Gaussian of its covariance.
    cubes, exact = walk.x**3, draw_at(mixture, level, 100_000, seed=5) ** 3
    assert ((cubes.mean(0) - exact.mean(0)).abs() < 4 * cubes.std(0) / math.sqrt(N)).all()
    assert (walk.x - x).abs().mean() > 0.3 * math.sqrt(noise_variance(level))


def test_chains_from_one_far_point_come_to_the_exact_mean_and_covariance() -> None:
    mixture, level = correlated_gaussian(0.8), 0.7
    start = torch.tensor([3.0, -3.0], dtype=torch.float64).expand(N, 2)
    burnt = walk_in(mixture, level, start, 60, stream="burn-in", adapt=True)
    walk = walk_in(mixture, level, burnt.x, 100, scale=burnt.step_scale)
    assert_mean_and_covariance(walk.x, torch.zeros(2, dtype=torch.float64), covariance_at(mixture, level))


def test_chains_from_one_mode_come_to_all_of_them_in_their_proportions() -> None:
    mixture, level = anisotropic(), 1.0
    start = torch.tensor([-0.2, -1.2], dtype=torch.float64).expand(N, 2)
    walk = walk_in(mixture, level, start, 150, scale=2.0)
    exact = draw_at(mixture, level, 100_000)
    for components in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        direction = torch.tensor(components, dtype=torch.float64)
        share, truth = (walk.x @ direction > 0.5).double().mean(), (exact @ direction > 0.5).double().mean()
        assert abs(share - truth) < 4 * math.sqrt(truth * (1 - truth) / N)


def test_ula_has_the_bias_of_its_step_and_mala_has_none() -> None:
    # x' = (1 − η) x + √(2η) ξ is stationary at the variance 1/(1 − η/2) instead of 1.
    eta, start = 0.8, torch.zeros(4000, 2, dtype=torch.float64)
    scale = eta * 2 ** (1 / 3)
    walks = {
        method: langevin(standard_normal, start, 1.0, steps=40, seed=0, stream="test", scale=scale, method=method)
        for method in ("ula", "mala")
    }
    mean, unit = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    assert_mean_and_covariance(walks["ula"].x, mean, unit / (1 - eta / 2))
    assert_mean_and_covariance(walks["mala"].x, mean, unit)
    assert walks["ula"].acceptance == 1
    assert 0.5 < walks["mala"].acceptance < 1


def test_a_density_with_an_edge_is_never_left() -> None:
    def box(x: Tensor) -> tuple[Tensor, Tensor]:
        inside = (x.abs() < 1).all(1)
        return torch.where(inside, 0.0, math.inf), torch.where(inside[:, None], 0.0, math.nan).expand_as(x)

    walk = langevin(box, torch.zeros(N, 2), 1.0, steps=60, seed=0, stream="test", scale=0.5)
    assert (walk.x.abs() < 1).all()
    assert_mean_and_covariance(walk.x.double(), torch.zeros(2), torch.eye(2) / 3)


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.01, 0.49])
def test_a_step_is_c_times_the_noise_variance_over_the_cube_root_of_the_dimension(variance: float) -> None:
    d, n, c = 8, 4000, 1.7
    slope = torch.linspace(-40, 40, d, dtype=torch.float64)
    start = torch.zeros(n, d, dtype=torch.float64)
    walk = langevin(along(slope), start, variance, steps=1, seed=0, stream="test", scale=c, method="ula")
    eta = c * variance * d ** (-1 / 3)
    assert_mean_and_covariance(walk.x, eta * slope, 2 * eta * torch.eye(d, dtype=torch.float64))


def test_a_chain_is_the_same_in_other_units() -> None:
    """In units of s times the length, variances are s² times as large and scores 1/s times."""
    unit, scale, mixture, level = 7.0, 0.8, anisotropic(), 0.4
    field, x = exact_field(mixture), draw_at(mixture, level, 20)

    def larger(x: Tensor) -> tuple[Tensor, Tensor]:
        energy, score = field.energy_and_score(x / unit, level)
        return energy, score / unit

    walk = walk_in(mixture, level, x, 30, scale=scale)
    other = langevin(
        larger, unit * x, unit**2 * noise_variance(level), steps=30, seed=0, stream="test", scale=scale
    )  # fmt: skip
    torch.testing.assert_close(other.x / unit, walk.x)
    assert other.acceptance == walk.acceptance


BURN_INS = {("ring", 0.1): 20.0, ("scattered", 0.3): 0.02, ("anisotropic", 1.0): 1.0}  # each scale in one of them


@pytest.mark.parametrize(
    ("name", "level", "scale"),
    [
        pytest.param(*at, scale, marks=[] if scale == usual else pytest.mark.slow)
        for at, usual in BURN_INS.items()
        for scale in (0.02, 1.0, 20.0)
    ],
)
def test_burn_in_finds_a_step_that_is_accepted_about_half_of_the_time(name: str, level: float, scale: float) -> None:
    x = draw_at(MIXTURES[name], level, 100)
    burnt = walk_in(MIXTURES[name], level, x, 100, stream="burn-in", scale=scale, adapt=True)
    walk = walk_in(MIXTURES[name], level, burnt.x, 60, scale=burnt.step_scale)
    assert 0.4 < walk.acceptance < 0.75
    assert torch.equal(walk.step_scale, burnt.step_scale), "then it is fixed"
    assert burnt.step_scale.min() >= SCALES[0]
    assert burnt.step_scale.max() <= SCALES[1]


# --- masks ------------------------------------------------------------------------------------------------------------


def test_a_masked_chain_draws_the_free_part_given_the_rest() -> None:
    fixed, mixture, level = 1.5, correlated_gaussian(0.8), 0.5
    covariance = covariance_at(mixture, level)
    start = torch.tensor([fixed, -2.0], dtype=torch.float64).expand(N, 2)
    walk = walk_in(mixture, level, start, 120, scale=2.0, mask=torch.tensor([0, 1]))
    assert (walk.x[:, 0] == fixed).all()
    slope = covariance[0, 1] / covariance[0, 0]
    variance = covariance[1, 1] - slope * covariance[0, 1]
    assert_mean_and_covariance(walk.x[:, 1:], slope * fixed, variance.reshape(1, 1))


def test_the_step_of_a_masked_chain_counts_free_pixels_only() -> None:
    n = 4000
    mask = torch.zeros(3, 3, 3)
    mask[:, 0, :2] = 1
    walk = langevin(
        lambda x: (0 * x.flatten(1).sum(1), 0 * x),
        torch.zeros(n, 3, 3, 3), 1.0, steps=1, seed=0, stream="test", mask=mask, method="ula",
    )  # fmt: skip
    assert (walk.x[:, mask == 0] == 0).all()
    variance, exact = walk.x[:, mask == 1].double().square().mean(), 2 * 6 ** (-1 / 3)
    assert abs(variance - exact) < 4 * exact * math.sqrt(2 / (6 * n))


# --- noise, traces, errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [False, True])
def test_a_chain_does_not_depend_on_the_others_of_its_batch(adapt: bool) -> None:
    mixture, level = MIXTURES["scattered"], 0.3
    x = draw_at(mixture, level, 6)
    whole = walk_in(mixture, level, x, 50, seed=3, adapt=adapt)
    for i in (0, 3, 5):
        alone = walk_in(mixture, level, x[i : i + 1], 50, seed=3, adapt=adapt, first=i)
        torch.testing.assert_close(alone.x[0], whole.x[i], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.step_scale[0], whole.step_scale[i])


def test_a_longer_chain_begins_as_the_shorter_one_did() -> None:
    x = draw_at(anisotropic(), 0.3, 5)
    short, long = (walk_in(anisotropic(), 0.3, x, steps) for steps in (7, 70))
    assert torch.equal(long.trace[:8], short.trace)


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "other"}, {"first": 5}])
def test_seeds_streams_and_indices_give_different_chains(other: dict[str, object]) -> None:
    x = draw_at(anisotropic(), 0.3, 5)
    before = torch.get_rng_state()
    one, two = (walk_in(anisotropic(), 0.3, x, 3, method="ula", **settings) for settings in ({}, other))
    assert not torch.isclose(one.x, two.x).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trace_holds_the_mean_energy_from_the_start_to_the_end() -> None:
    mixture, level = anisotropic(), 0.3
    x = draw_at(mixture, level, 50)
    seen: list[int] = []
    walk = walk_in(mixture, level, x, 9, on_step=seen.append)
    length = math.hypot(1, level)
    mean, std = torch.tensor([1 / length / STD, level / length], dtype=torch.float64)
    exact = torch.stack([-mixture.log_density(points, mean, std).mean() for points in (x, walk.x)])
    torch.testing.assert_close(walk.trace[[0, -1]] + math.log(2 * math.pi), exact)
    torch.testing.assert_close(walk.trace[-1], walk.energy.mean())
    assert (len(walk.trace), walk.evaluations, seen) == (10, 10, list(range(1, 10)))


def test_what_cannot_be_walked_is_refused() -> None:
    x = torch.zeros(3, 2)
    call: dict[str, Any] = {"seed": 0, "stream": "test"}
    with pytest.raises(ConfigError, match="steps = 0"):
        langevin(standard_normal, x, 1.0, steps=0, **call)
    with pytest.raises(ConfigError, match="hmc") as caught:
        langevin(standard_normal, x, 1.0, steps=1, method="hmc", **call)
    assert caught.value.hint is not None
    assert "mala" in caught.value.hint
    with pytest.raises(SolverError, match="2 of 3 starting points"):
        langevin(lambda x: (torch.tensor([math.nan, 0, math.inf]), 0 * x), x, 1.0, steps=1, **call)
    with pytest.raises(SolverError, match="3 of 3 chains became non-finite"):
        langevin(lambda x: (x.pow(4).sum(1), -4 * x**3), x + 9, 1.0, steps=9, method="ula", **call)
