"""Decoding and encoding along the flow of a field, on flows that are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import MIXTURES, SCHEDULES, STD, anisotropic, correlated_gaussian, exact_field, isotropic_gaussian
from torch import Tensor, nn

from vpfb_core.dynamics.ode import steps_for
from vpfb_core.dynamics.solver import DEFAULT_SOLVER, Solver
from vpfb_core.dynamics.tableaux import METHODS, is_adaptive
from vpfb_core.errors import ConfigError
from vpfb_core.methods.likelihood import log_likelihood
from vpfb_core.methods.path.homotopy import OT, VP, Homotopy
from vpfb_core.methods.transport import decode, encode
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

FIXED = [name for name, method in METHODS.items() if not is_adaptive(method)]
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
    field = exact_field(correlated_gaussian(correlation), schedule)
    noise = normal(32)
    z = decode(field, noise, solver=PRECISE).require_success().x
    _, end = schedule.angle_range(STD)
    along, across = (math.sqrt(1 + sign * correlation * math.sin(end) ** 2) for sign in (1, -1))
    first, second = along * (noise[:, 0] + noise[:, 1]) / 2, across * (noise[:, 0] - noise[:, 1]) / 2
    torch.testing.assert_close(z, torch.stack([first + second, first - second], 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", FIXED)
def test_gaussian_data_of_equal_variances_is_reached_in_any_number_of_steps(method: str) -> None:
    field = exact_field(isotropic_gaussian())
    noise = normal(16)
    solver = Solver.choose(method, nfe=4)
    torch.testing.assert_close(decode(field, noise, solver=solver).x, noise, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["ring", "anisotropic", "scattered"])
def test_encoding_a_decoded_point_returns_to_the_start(name: str) -> None:
    mixture = MIXTURES[name]
    field = exact_field(mixture, OT(0.01))
    noise = normal(24, mixture.dimension)
    z = decode(field, noise, solver=PRECISE).require_success().x
    back = encode(field, z, solver=PRECISE).require_success().x
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-5)  # the way back magnifies errors where modes part


@pytest.mark.parametrize("schedule", [OT(0.01), VP(0.02), SCHEDULES["power"]], ids=["ot", "vp", "power"])
def test_decoded_noise_has_the_moments_of_the_data(schedule: Homotopy) -> None:
    mixture, n = anisotropic(), 2500
    field = exact_field(mixture, schedule)
    z = decode(field, normal(n), solver=Solver.choose("rk4", nfe=60)).require_success().x
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
    field = exact_field(mixture, schedule)
    _, end = schedule.angle_range(STD)
    data = mixture.sample(n, torch.Generator().manual_seed(2)) / STD
    u = math.sin(end) * data + math.cos(end) * normal(n)
    codes = encode(field, u, solver=Solver.choose("rk4", nfe=60)).require_success().x
    for moment, exact, variance in [(codes, 0, 1), (codes**2, 1, 2), (codes**3, 0, 15), (codes**4, 3, 96)]:
        assert ((moment.mean(0) - exact).abs() < 4 * math.sqrt(variance / n)).all()
    assert abs((codes[:, 0] * codes[:, 1]).mean()) < 4 / math.sqrt(n)


def test_schedules_with_the_same_range_follow_the_same_paths() -> None:
    # tan φ = a μ/σ: this floor makes both end at the same angle, and the arc knows nothing else of a schedule.
    ot, vp = OT(0.05), VP(math.cos(math.atan(1 / 0.05)))
    assert ot.angle_range(STD) == pytest.approx(vp.angle_range(STD), rel=1e-12)
    ends = [decode(exact_field(anisotropic(), each), normal(8)).x for each in (ot, vp)]
    torch.testing.assert_close(ends[0], ends[1])


# --- the method of the arc --------------------------------------------------------------------------------------------


def error_of(method: str, nfe: int, floor: float = 0.05) -> float:
    """Root mean square distance to the exact end, of the flow of the correlated Gaussian on the usual grid."""
    field, noise = exact_field(correlated_gaussian(), OT(floor)), normal(32)
    _, end = field.span
    along, across = (math.sqrt(1 + sign * 0.8 * math.sin(end) ** 2) for sign in (1, -1))
    first, second = along * (noise[:, 0] + noise[:, 1]) / 2, across * (noise[:, 0] - noise[:, 1]) / 2
    exact = torch.stack([first + second, first - second], 1)
    z = decode(field, noise, solver=Solver.choose(method, nfe=nfe)).require_success().x
    return float((z - exact).square().mean().sqrt())


def test_arc3_is_of_third_order_on_a_flow_that_is_known() -> None:
    nfe = np.array([40, 80, 160])
    slope, _ = np.polyfit(np.log(1 / nfe), np.log([error_of("arc3", n) for n in nfe]), 1)
    assert slope == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize(
    "name", ["ring", *(pytest.param(name, marks=pytest.mark.slow) for name in ("anisotropic", "scattered"))]
)
def test_arc3_is_of_third_order_on_the_flow_of_a_mixture(name: str) -> None:
    mixture = MIXTURES[name]
    field = exact_field(mixture, OT(0.1))
    noise = normal(24, mixture.dimension)
    exact, nfe = decode(field, noise, solver=PRECISE).x, np.array([80, 160, 320])
    errors = [(decode(field, noise, solver=Solver.choose("arc3", nfe=n)).x - exact).square().mean() for n in nfe]
    slope, _ = np.polyfit(np.log(1 / nfe), 0.5 * np.log(errors), 1)
    assert slope == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize("nfe", [8, 12, 20])
def test_arc3_is_nearer_at_equal_cost_than_methods_that_begin_by_looking_at_noise(nfe: int) -> None:
    assert error_of("arc3", nfe) < min(error_of(method, nfe) for method in ("ab2", "ab3", "midpoint", "heun"))


def test_arc3_begins_where_ab3_does_anywhere_but_in_noise() -> None:
    # Where the velocity depends on the point, half a step without looking would cost an order.
    field, noise = exact_field(anisotropic()), normal(6)
    arc3, ab3 = (Solver.choose(method, nfe=16) for method in ("arc3", "ab3"))
    for ends in (
        [encode(field, noise, solver=solver).x for solver in (arc3, ab3)],
        [log_likelihood(field, noise, [1.2], solver=solver).log_density for solver in (arc3, ab3)],
    ):
        assert torch.equal(*ends)
    assert not torch.equal(*(decode(field, noise, solver=solver).x for solver in (arc3, ab3)))
    late, exact = (decode(field, noise, solver=solver, start=1.3).x for solver in (arc3, PRECISE))
    torch.testing.assert_close(late, exact, rtol=0, atol=0.02)


# --- conditions and batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [DEFAULT_SOLVER, Solver.choose("dopri5"), Solver.choose("euler", nfe=3)])
def test_each_sample_follows_its_own_condition(solver: Solver) -> None:
    field, condition = PotentialField(Potential(Drift(), VP(), STD)), torch.tensor([[-1], [0], [1], [5]])
    noise = normal(4, 3)
    start, end = field.span
    z = decode(field, noise, condition, solver).x
    torch.testing.assert_close(z, noise + condition * (end - start))
    torch.testing.assert_close(encode(field, z, condition, solver).x, noise)
    torch.testing.assert_close(decode(field, noise, None, solver).x, noise)


@pytest.mark.parametrize("method", ["arc3", "ab2", "dopri5"])
def test_a_sample_does_not_depend_on_its_batch(method: str) -> None:
    # A tame flow: where paths part, or steps are chosen at the edge of being taken, rounding itself is magnified.
    field, noise = PotentialField(Potential(Wave(), OT(), STD)), normal(8)
    whole = decode(field, noise, solver=Solver.choose(method)).require_success()
    assert whole.nfe.unique().numel() > 1 or method != "dopri5"  # each takes its own steps
    for i in range(8):
        alone = decode(field, noise[i : i + 1], solver=Solver.choose(method))
        torch.testing.assert_close(alone.x[0], whole.x[i], rtol=0, atol=1e-11)
        assert alone.nfe[0] == whole.nfe[i]


def test_images_flow_like_the_vectors_they_flatten_to() -> None:
    field, noise = exact_field(anisotropic()), normal(6)
    images = decode(field, noise.reshape(6, 1, 2, 1)).x
    assert images.shape == (6, 1, 2, 1)
    torch.testing.assert_close(images.flatten(1), decode(field, noise).x)


def test_solutions_carry_no_graph_and_leave_their_input() -> None:
    field, noise = exact_field(anisotropic()), normal(4).requires_grad_()
    kept = noise.detach().clone()
    for solution in (decode(field, noise), encode(field, noise)):
        assert not solution.x.requires_grad
    assert torch.equal(noise, kept)


@pytest.mark.parametrize("method", FIXED)
def test_path_runs_from_the_noise_to_the_end_within_the_budget(method: str) -> None:
    field, noise = exact_field(anisotropic()), normal(4)
    solver = Solver.choose(method, nfe=13)
    solution = decode(field, noise, solver=solver, keep_path=True)
    assert solution.path is not None
    assert torch.equal(solution.path[0], noise)
    assert torch.equal(solution.path[-1], solution.x)
    assert len(solution.path) - 1 == steps_for(method, 13)
    assert solution.nfe.max() <= 13
    assert solution.t.tolist() == [field.span[1]] * 4


def test_path_of_an_adaptive_method_is_refused() -> None:
    field = PotentialField(Potential(Drift(), OT(), STD))
    with pytest.raises(ConfigError, match="dopri5"):
        decode(field, normal(2), solver=Solver.choose("dopri5"), keep_path=True)
