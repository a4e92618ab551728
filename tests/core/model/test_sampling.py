"""Decoding and encoding along the arc, on flows that are known exactly."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import MIXTURES, SCHEDULES, STD, ExactNetwork, anisotropic, correlated_gaussian, isotropic_gaussian
from torch import Tensor, nn

from vpfb_core.dynamics.ode import evaluations
from vpfb_core.dynamics.tableaux import METHODS
from vpfb_core.errors import ConfigError
from vpfb_core.methods.likelihood import log_likelihood
from vpfb_core.methods.transport import DEFAULT_NFE, DEFAULT_SOLVER, DEFAULT_TOLERANCE, Solver, arc_grid, decode, encode
from vpfb_core.methods.vpfb.homotopy import OT, VP, Homotopy
from vpfb_core.methods.vpfb.potential import Potential

ADAPTIVE = ["bosh3", "dopri5"]
FIXED = [name for name in METHODS if name not in ADAPTIVE]
PRECISE = Solver.choose("dopri5", rtol=1e-9, atol=1e-9)


def normal(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Drift(nn.Module):
    """N = k · (1, …, 1)·u for class k: the flow adds k φ to every coordinate."""

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        strength = torch.zeros(len(u), dtype=u.dtype) if condition is None else condition[:, 0].to(u.dtype)
        return strength * u.flatten(1).sum(1)


class Wave(nn.Module):
    """N = sin(3 u₁ + u₂ − φ), a smooth flow that is not linear."""

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return torch.sin(3 * u[:, 0] + u[:, 1] - angle)


# --- exact flows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.5])
def test_decoding_a_correlated_gaussian_stretches_its_axes_exactly(correlation: float) -> None:
    schedule = OT(0.01)
    potential = Potential(ExactNetwork(correlated_gaussian(correlation)), schedule, STD)
    noise = normal(32)
    z = decode(potential, noise, solver=PRECISE).require_success().x
    _, end = schedule.angle_range(STD)
    along, across = (math.sqrt(1 + sign * correlation * math.sin(end) ** 2) for sign in (1, -1))
    first, second = along * (noise[:, 0] + noise[:, 1]) / 2, across * (noise[:, 0] - noise[:, 1]) / 2
    torch.testing.assert_close(z, torch.stack([first + second, first - second], 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", FIXED)
def test_gaussian_data_of_equal_variances_is_reached_in_any_number_of_steps(method: str) -> None:
    potential = Potential(ExactNetwork(isotropic_gaussian()), OT(), STD)
    noise = normal(16)
    solver = Solver.choose(method, nfe=4)
    torch.testing.assert_close(decode(potential, noise, solver=solver).x, noise, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["ring", "anisotropic", "scattered"])
def test_encoding_a_decoded_point_returns_to_the_start(name: str) -> None:
    mixture = MIXTURES[name]
    potential = Potential(ExactNetwork(mixture), OT(0.01), STD)
    noise = normal(24, mixture.dimension)
    z = decode(potential, noise, solver=PRECISE).require_success().x
    back = encode(potential, z, solver=PRECISE).require_success().x
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-5)  # the way back magnifies errors where modes part


@pytest.mark.parametrize("schedule", [OT(0.01), VP(0.02), SCHEDULES["power"]], ids=["ot", "vp", "power"])
def test_decoded_noise_has_the_moments_of_the_data(schedule: Homotopy) -> None:
    mixture, n = anisotropic(), 2500
    potential = Potential(ExactNetwork(mixture), schedule, STD)
    z = decode(potential, normal(n), solver=Solver.choose("rk4", nfe=60)).require_success().x
    _, end = schedule.angle_range(STD)
    mean, std = torch.tensor(math.sin(end) / STD), math.cos(end)  # what is left of the noise at the floor
    covariance = mean**2 * mixture.covariance + std**2 * torch.eye(2, dtype=torch.float64)
    assert (z.mean(0).abs() < 4 * z.std(0) / math.sqrt(n)).all()
    for i, j in [(0, 0), (0, 1), (1, 1)]:
        products = z[:, i] * z[:, j]
        assert abs(products.mean() - covariance[i, j]) < 4 * products.std() / math.sqrt(n)
    # Third moments tell the mixture from a Gaussian: E[x³] of a component is m³ + 3 m v.
    spread = (mixture.axes * mixture.variances[:, None] @ mixture.axes.mT).diagonal(dim1=1, dim2=2)
    third = mean**3 * (mixture.weights @ (mixture.means**3 + 3 * mixture.means * spread))
    third += 3 * mean * std**2 * (mixture.weights @ mixture.means)
    cubes = z**3
    assert ((cubes.mean(0) - third).abs() < 4 * cubes.std(0) / math.sqrt(n)).all()
    assert (third.abs() > 4 * cubes.std(0) / math.sqrt(n)).any()


def test_encoded_data_is_standard_normal() -> None:
    mixture, n = anisotropic(), 2500
    schedule = OT(0.05)
    potential = Potential(ExactNetwork(mixture), schedule, STD)
    _, end = schedule.angle_range(STD)
    data = mixture.sample(n, torch.Generator().manual_seed(2)) / STD
    u = math.sin(end) * data + math.cos(end) * normal(n)
    codes = encode(potential, u, solver=Solver.choose("rk4", nfe=60)).require_success().x
    for moment, exact, variance in [(codes, 0, 1), (codes**2, 1, 2), (codes**3, 0, 15), (codes**4, 3, 96)]:
        assert ((moment.mean(0) - exact).abs() < 4 * math.sqrt(variance / n)).all()
    assert abs((codes[:, 0] * codes[:, 1]).mean()) < 4 / math.sqrt(n)


def test_schedules_with_the_same_range_follow_the_same_paths() -> None:
    # tan φ = a μ/σ: this floor makes both end at the same angle, and the arc knows nothing else of a schedule.
    ot, vp = OT(0.05), VP(math.cos(math.atan(1 / 0.05)))
    assert ot.angle_range(STD) == pytest.approx(vp.angle_range(STD), rel=1e-12)
    ends = [decode(Potential(ExactNetwork(anisotropic()), each, STD), normal(8)).x for each in (ot, vp)]
    torch.testing.assert_close(ends[0], ends[1])


# --- the method of the arc --------------------------------------------------------------------------------------------


def error_of(method: str, nfe: int, floor: float = 0.05) -> float:
    """Root mean square distance to the exact end, of the flow of the correlated Gaussian on the usual grid."""
    potential, noise = Potential(ExactNetwork(correlated_gaussian()), OT(floor), STD), normal(32)
    _, end = potential.angle_range
    along, across = (math.sqrt(1 + sign * 0.8 * math.sin(end) ** 2) for sign in (1, -1))
    first, second = along * (noise[:, 0] + noise[:, 1]) / 2, across * (noise[:, 0] - noise[:, 1]) / 2
    exact = torch.stack([first + second, first - second], 1)
    z = decode(potential, noise, solver=Solver.choose(method, nfe=nfe)).require_success().x
    return float((z - exact).square().mean().sqrt())


def test_arc3_is_of_third_order_on_a_flow_that_is_known() -> None:
    nfe = np.array([40, 80, 160])
    slope, _ = np.polyfit(np.log(1 / nfe), np.log([error_of("arc3", n) for n in nfe]), 1)
    assert slope == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("name", ["ring", "anisotropic", "scattered"])
def test_arc3_is_of_third_order_on_the_flow_of_a_mixture(name: str) -> None:
    mixture = MIXTURES[name]
    potential = Potential(ExactNetwork(mixture), OT(0.1), STD)
    noise = normal(24, mixture.dimension)
    exact, nfe = decode(potential, noise, solver=PRECISE).x, np.array([80, 160, 320])
    errors = [(decode(potential, noise, solver=Solver.choose("arc3", nfe=n)).x - exact).square().mean() for n in nfe]
    slope, _ = np.polyfit(np.log(1 / nfe), 0.5 * np.log(errors), 1)
    assert slope == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize("nfe", [8, 12, 20])
def test_arc3_is_nearer_at_equal_cost_than_methods_that_begin_by_looking_at_noise(nfe: int) -> None:
    assert error_of("arc3", nfe) < min(error_of(method, nfe) for method in ("ab2", "ab3", "midpoint", "heun"))


def test_arc3_begins_where_ab3_does_anywhere_but_in_noise() -> None:
    # Where the velocity depends on the point, half a step without looking would cost an order.
    potential, noise = Potential(ExactNetwork(anisotropic()), OT(), STD), normal(6)
    arc3, ab3 = (Solver.choose(method, nfe=16) for method in ("arc3", "ab3"))
    for ends in (
        [encode(potential, noise, solver=solver).x for solver in (arc3, ab3)],
        [log_likelihood(potential, noise, [1.2], solver=solver).log_density for solver in (arc3, ab3)],
    ):
        assert torch.equal(*ends)
    assert not torch.equal(*(decode(potential, noise, solver=solver).x for solver in (arc3, ab3)))
    late, exact = (decode(potential, noise, solver=solver, start=1.3).x for solver in (arc3, PRECISE))
    torch.testing.assert_close(late, exact, rtol=0, atol=0.02)


# --- conditions and batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [DEFAULT_SOLVER, Solver.choose("dopri5"), Solver.choose("euler", nfe=3)])
def test_each_sample_follows_its_own_condition(solver: Solver) -> None:
    potential, condition = Potential(Drift(), VP(), STD), torch.tensor([[-1], [0], [1], [5]])
    noise = normal(4, 3)
    start, end = potential.angle_range
    z = decode(potential, noise, condition, solver).x
    torch.testing.assert_close(z, noise + condition * (end - start))
    torch.testing.assert_close(encode(potential, z, condition, solver).x, noise)
    torch.testing.assert_close(decode(potential, noise, None, solver).x, noise)


@pytest.mark.parametrize("method", ["arc3", "ab2", "dopri5"])
def test_a_sample_does_not_depend_on_its_batch(method: str) -> None:
    # A tame flow: where paths part, or steps are chosen at the edge of being taken, rounding itself is magnified.
    potential, noise = Potential(Wave(), OT(), STD), normal(8)
    whole = decode(potential, noise, solver=Solver.choose(method)).require_success()
    assert whole.nfe.unique().numel() > 1 or method != "dopri5"  # each takes its own steps
    for i in range(8):
        alone = decode(potential, noise[i : i + 1], solver=Solver.choose(method))
        torch.testing.assert_close(alone.x[0], whole.x[i], rtol=0, atol=1e-11)
        assert alone.nfe[0] == whole.nfe[i]


def test_images_flow_like_the_vectors_they_flatten_to() -> None:
    potential, noise = Potential(ExactNetwork(anisotropic()), OT(), STD), normal(6)
    images = decode(potential, noise.reshape(6, 1, 2, 1)).x
    assert images.shape == (6, 1, 2, 1)
    torch.testing.assert_close(images.flatten(1), decode(potential, noise).x)


def test_solutions_carry_no_graph_and_leave_their_input() -> None:
    potential, noise = Potential(ExactNetwork(anisotropic()), OT(), STD), normal(4).requires_grad_()
    kept = noise.detach().clone()
    for solution in (decode(potential, noise), encode(potential, noise)):
        assert not solution.x.requires_grad
    assert torch.equal(noise, kept)


@pytest.mark.parametrize("method", FIXED)
def test_path_runs_from_the_noise_to_the_end_within_the_budget(method: str) -> None:
    potential, noise = Potential(ExactNetwork(anisotropic()), OT(), STD), normal(4)
    solver = Solver.choose(method, nfe=13)
    solution = decode(potential, noise, solver=solver, keep_path=True)
    assert solution.path is not None
    assert torch.equal(solution.path[0], noise)
    assert torch.equal(solution.path[-1], solution.x)
    assert solution.nfe.tolist() == [evaluations(method, len(solution.path) - 1)] * 4
    assert solution.nfe.max() <= 13
    assert solution.t.tolist() == [potential.angle_range[1]] * 4


def test_path_of_an_adaptive_method_is_refused() -> None:
    potential = Potential(Drift(), OT(), STD)
    with pytest.raises(ConfigError, match="dopri5"):
        decode(potential, normal(2), solver=Solver.choose("dopri5"), keep_path=True)


# --- the choice of a solver -------------------------------------------------------------------------------------------


def test_no_wish_is_the_default_method_and_budget() -> None:
    assert Solver.choose() == DEFAULT_SOLVER
    assert DEFAULT_SOLVER.nfe == DEFAULT_NFE


def test_a_tolerance_alone_asks_for_dopri5() -> None:
    assert Solver.choose(rtol=1e-6) == Solver("dopri5", None, 1e-6, 1e-6)
    assert Solver.choose(rtol=1e-6, atol=1e-3) == Solver("dopri5", None, 1e-6, 1e-3)
    assert Solver.choose(atol=1e-3) == Solver("dopri5", None, DEFAULT_TOLERANCE, 1e-3)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_method_takes_a_budget_and_no_tolerance(method: str) -> None:
    assert Solver.choose(method).nfe == DEFAULT_NFE
    assert Solver.choose(method, nfe=40).nfe == 40
    with pytest.raises(ConfigError, match="not a tolerance"):
        Solver.choose(method, rtol=1e-4)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_method_takes_a_tolerance_and_no_budget(method: str) -> None:
    assert Solver.choose(method).nfe is None
    assert Solver.choose(method, rtol=1e-7).rtol == 1e-7
    with pytest.raises(ConfigError, match="nfe = 20"):
        Solver.choose(method, nfe=20)


def test_wishes_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a tolerance"):
        Solver.choose(nfe=20, rtol=1e-4)


@pytest.mark.parametrize(("method", "nfe"), [("rk4", 3), ("heun", 1), ("ab2", 0), ("euler", -5)])
def test_budget_below_one_step_is_refused(method: str, nfe: int) -> None:
    with pytest.raises(ConfigError, match=f"nfe = {nfe}"):
        Solver.choose(method, nfe=nfe)


def test_unknown_method_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="dopri") as caught:
        Solver.choose("dopri")
    assert caught.value.hint is not None
    assert "dopri5" in caught.value.hint


# --- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.57), (0.2, 1.4), (1.57, 0.0), (1.4, 0.2)])
def test_grid_runs_from_end_to_end_and_is_finer_towards_both(start: float, end: float) -> None:
    grid = arc_grid(start, end, 10)
    assert len(grid) == 11
    assert (grid[0], grid[-1]) == (start, end)
    steps = [abs(b - a) for a, b in pairwise(grid)]
    widest = steps.index(max(steps))
    assert 2 < widest < 8
    assert steps[: widest + 1] == sorted(steps[: widest + 1])
    assert steps[widest:] == sorted(steps[widest:], reverse=True)
    assert min(steps) > max(steps) / 4


def test_grid_of_the_way_back_is_that_of_the_way_there() -> None:
    assert arc_grid(1.5, 0.1, 7) == arc_grid(0.1, 1.5, 7)[::-1]
