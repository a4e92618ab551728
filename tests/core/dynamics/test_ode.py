"""The solvers of fixed steps against exact solutions and torchdiffeq, and what all solvers promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from ode_problems import (
    ADAPTIVE,
    FIXED,
    PROBLEMS,
    Problem,
    Recorder,
    blow_up,
    each_direction,
    each_dtype,
    relative_error,
)
from torch import Tensor

from vpfb_core.dynamics.ode import METHODS, Solution, Status, solve, steps_for
from vpfb_core.dynamics.tableaux import AB2, AB3, ARC3, BOSH3, DOPRI5, Method, Slope, Tableau
from vpfb_core.errors import ConfigError, SolverError


def walk(method: Method, problem: Problem, grid: Sequence[float]) -> Tensor:
    """Any table on a given grid, those of the adaptive methods too."""
    x = problem.x0()
    slopes: list[Slope] = []
    for i in range(len(grid) - 1):
        x, slopes = method.grid_step(problem.f, x, grid, i, slopes)
    return x


def slope_of_error(
    method: Method, problem: Problem, span: tuple[float, float], power: float = 1.0, finest: int = 120
) -> float:
    """The slope of log error against log step length, by halving the step; twice as long for a method of order 4."""
    steps = np.array([1 / 4, 1 / 2, 1]) * (finest // 2 if method.order >= 4 else finest)
    steps = steps.astype(int)
    errors = []
    for n in steps:
        grid = (span[0] + (span[1] - span[0]) * np.linspace(0, 1, n + 1) ** power).tolist()
        errors.append(relative_error(walk(method, problem, grid), problem.exact(problem.x0(), *span)))
    return float(np.polyfit(np.log(1 / steps), np.log(errors), 1)[0])


# ---------------------------------------------------------------- order


# Not the scalar linear ones: their leading errors partly cancel along the way, and a slope there says little.
each_order_problem = pytest.mark.parametrize("name", ["unsteady oscillator", "logistic"])
each_general_method = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m is not ARC3], ids=lambda m: m.name
)


@each_order_problem
@each_direction
@each_general_method
def test_error_falls_with_the_order_of_the_method(method: Method, span: tuple[float, float], name: str) -> None:
    assert slope_of_error(method, PROBLEMS[name], span) == pytest.approx(method.order, abs=0.1)


@each_order_problem
@each_general_method
def test_order_survives_a_grid_of_unequal_steps(method: Method, name: str) -> None:
    slope = slope_of_error(method, PROBLEMS[name], (0.2, 1.7), power=1.3)
    assert slope == pytest.approx(method.order, abs=0.1)


# A slope that at t = 0 is the same for every x, as in the flow of the arc, and later is not.
DEPARTURES = {
    "growing": Problem(
        lambda x, t: 1 + t[:, None] * x,
        lambda x, t0, t1: (x + math.sqrt(math.pi / 2) * math.erf(t1 / math.sqrt(2))) * math.exp(t1**2 / 2),
        ((1.0,), (-0.5,)),
    ),
    "parting": Problem(  # logistic in t²/2: paths leave x = 0
        lambda x, t: t[:, None] * x * (1 - x),
        lambda x, t0, t1: x / (x + (1 - x) * math.exp(-(t1**2) / 2)),
        ((0.1, 0.5), (0.9, -0.1)),
    ),
}


@pytest.mark.parametrize("power", [1.0, 1.3])
@pytest.mark.parametrize("problem", DEPARTURES.values(), ids=DEPARTURES.keys())
def test_arc3_is_of_third_order_from_where_the_slope_is_the_same_for_all(problem: Problem, power: float) -> None:
    assert slope_of_error(ARC3, problem, (0.0, 1.2), power, finest=240) == pytest.approx(3, abs=0.1)


@each_order_problem
@each_direction
def test_arc3_is_of_second_order_elsewhere(span: tuple[float, float], name: str) -> None:
    assert slope_of_error(ARC3, PROBLEMS[name], span) == pytest.approx(2, abs=0.1)


def test_slopes_off_the_grid_are_weighted_where_they_are() -> None:
    # x' = c₀ + c₁ t: two slopes are enough from the second step on, and halfway is exact on the first.
    line = Problem(lambda x, t: (2 - 3 * t)[:, None] + 0 * x, lambda x, t0, t1: x + 2 * t1 - 1.5 * t1**2, ((1.0,),))
    for method in (ARC3, replace(AB2, start=ARC3.start)):
        assert relative_error(walk(method, line, [0.0, 0.3, 0.4, 1.0]), line.exact(line.x0(), 0.0, 1.0)) < 1e-14


@each_order_problem
@pytest.mark.parametrize("table", [BOSH3, DOPRI5], ids=ADAPTIVE)
def test_embedded_weights_are_one_order_lower(table: Tableau, name: str) -> None:
    assert table.embedded is not None
    lower = replace(table, b=table.embedded, order=table.order - 1)
    assert slope_of_error(lower, PROBLEMS[name], (0.2, 1.7)) == pytest.approx(lower.order, abs=0.1)


@pytest.mark.parametrize("table", [m for m in METHODS.values() if isinstance(m, Tableau)], ids=lambda m: m.name)
def test_tables_are_consistent_explicit_and_first_same_as_last_where_adaptive(table: Tableau) -> None:
    assert [len(row) for row in table.a] == list(range(len(table.c)))
    assert [sum(row) for row in table.a] == pytest.approx(list(table.c), abs=1e-14)
    for k in range(table.order):
        assert sum(b * c**k for b, c in zip(table.b, table.c, strict=True)) == pytest.approx(1 / (k + 1), abs=1e-14)
    if table.embedded is not None:
        assert (*table.a[-1], 0.0) == table.b
        assert table.c[-1] == 1
        assert sum(table.error) == pytest.approx(0, abs=1e-15)


def test_adams_bashforth_weights_on_equal_steps_are_the_textbook_ones() -> None:
    assert AB3.weights([0.0, -0.1, -0.2], 0.1) == pytest.approx([23 / 12, -16 / 12, 5 / 12])
    assert AB3.weights([0.0, -0.1], 0.1) == pytest.approx([3 / 2, -1 / 2])
    assert AB3.weights([0.0, -0.1], 0.05) == pytest.approx([5 / 4, -1 / 4])


# ---------------------------------------------------------------- exact solutions


@each_direction
@each_dtype
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_reach_the_exact_solution(method: str, dtype: torch.dtype, span: tuple[float, float]) -> None:
    for name, problem in PROBLEMS.items():
        solution = solve(problem.f, problem.x0(dtype), *span, method, steps=40)
        exact = problem.exact(problem.x0(), *span)
        assert solution.x.dtype == solution.t.dtype == dtype
        order = 2 if method == "arc3" else METHODS[method].order  # these problems do not begin as the arc does
        assert relative_error(solution.x, exact) < {1: 0.15, 2: 4e-3, 3: 4e-4, 4: 2e-6}[order], name
        assert (solution.t == torch.tensor(span[1], dtype=dtype)).all()
        assert (solution.status == Status.SUCCESS).all()


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back_returns_to_the_start(method: str) -> None:
    problem = PROBLEMS["oscillator"]
    settings = {"rtol": 1e-8, "atol": 1e-8} if method in ADAPTIVE else {"steps": 100}
    there = solve(problem.f, problem.x0(), 0.0, 1.0, method, **settings)
    back = solve(problem.f, there.x, 1.0, 0.0, method, **settings)
    assert (back.t == 0).all()
    order = 2 if method == "arc3" else METHODS[method].order
    assert relative_error(back.x, problem.x0()) < {1: 2e-2, 2: 2e-4}.get(order, 1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 1, 8, 8)], ids=str)
@pytest.mark.parametrize("method", ["ab3", "rk4", "dopri5"])
def test_states_of_any_shape(method: str, shape: tuple[int, ...]) -> None:
    x0 = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
    settings: dict[str, Any] = {} if method in ADAPTIVE else {"steps": 30}
    solution = solve(lambda x, t: -x * t.reshape(-1, *[1] * (x.dim() - 1)), x0, 0.0, 1.0, method, **settings)
    assert solution.x.shape == shape
    assert torch.allclose(solution.x, x0 * math.exp(-0.5), atol=1e-4)
    assert all(v.shape == (3,) for v in (solution.t, solution.nfe, solution.accepted, solution.status))


@pytest.mark.parametrize("method", METHODS)
def test_no_samples_are_solved_without_calling_f(method: str) -> None:
    def never(_x: Tensor, _t: Tensor) -> Tensor:
        raise AssertionError("called")

    settings: dict[str, Any] = {} if method in ADAPTIVE else {"steps": 3, "keep_path": True}
    solution = solve(never, torch.zeros(0, 2), method=method, **settings).require_success()
    assert solution.x.shape == (0, 2)
    assert solution.nfe.shape == (0,)
    if solution.path is not None:
        assert solution.path.shape == (4, 0, 2)


# ---------------------------------------------------------------- other people's solvers


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_fixed_steps_agree_with_torchdiffeq_to_rounding(method: str) -> None:
    problem = PROBLEMS["cosine growth"]
    grid = [0.0, 0.1, 0.4, 0.5, 1.0]
    theirs = torchdiffeq.odeint(
        lambda t, x: problem.f(x, t.expand(len(x))),
        problem.x0(),
        torch.tensor(grid, dtype=torch.float64),
        method=method,
    )
    ours = solve(problem.f, problem.x0(), method=method, grid=grid, keep_path=True)
    assert ours.path is not None
    # torchdiffeq's "rk4" is Kutta's 3/8 rule: another table of the same order.
    assert torch.allclose(ours.path, theirs, rtol=3e-4 if method == "rk4" else 1e-14, atol=0)


# ---------------------------------------------------------------- where f is called, and how often


NODES = {
    "euler": [0.0, 0.25, 0.5],
    "midpoint": [0.0, 0.125, 0.25, 0.375, 0.5, 0.75],
    "heun": [0.0, 0.25, 0.25, 0.5, 0.5, 1.0],
    "rk4": [0.0, 0.125, 0.125, 0.25, 0.25, 0.375, 0.375, 0.5, 0.5, 0.75, 0.75, 1.0],
    "ab2": [0.0, 0.25, 0.5],
    "ab3": [0.0, 0.125, 0.25, 0.5],
    "arc3": [0.125, 0.25, 0.5],
}


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_call_f_at_these_nodes(method: str) -> None:
    recorder = Recorder()
    solution = solve(recorder, torch.ones(2, 1), method=method, grid=[0.0, 0.25, 0.5, 1.0])
    assert recorder.times == NODES[method]
    assert solution.nfe.tolist() == [len(recorder.times)] * 2
    assert solution.accepted.tolist() == [3, 3]
    assert solution.rejected.tolist() == [0, 0]


@pytest.mark.parametrize("method", ["euler", "midpoint", "ab2", "ab3", "arc3"])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7)])
def test_the_singular_end_is_not_evaluated(method: str, span: tuple[float, float]) -> None:
    recorder = Recorder()
    solve(recorder, torch.ones(1, 1), *span, method, steps=7)
    low, high = sorted(np.array(span, np.float32).tolist())
    assert all(low <= t <= high and t != np.float32(span[1]) for t in recorder.times)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_never_leave_the_interval_by_rounding(method: str) -> None:
    for steps in range(1, 20):
        recorder = Recorder()
        solve(recorder, torch.ones(1, 1, dtype=torch.float64), 0.7, 0.1, method, steps=steps)
        assert all(0.1 <= t <= 0.7 for t in recorder.times)


@pytest.mark.parametrize("method", FIXED)
def test_steps_for_is_the_largest_number_of_steps_in_the_budget(method: str) -> None:
    def evaluations(steps: int) -> int:
        return int(solve(lambda x, _t: x, torch.ones(1, 1), method=method, steps=steps).nfe)

    for nfe in range(evaluations(1), 30):
        steps = steps_for(method, nfe)
        assert evaluations(steps) <= nfe < evaluations(steps + 1)
    with pytest.raises(ConfigError, match="too few"):
        steps_for(method, evaluations(1) - 1)
    with pytest.raises(ConfigError, match="too many"):
        steps_for(method, 10**10)


# ---------------------------------------------------------------- samples that fail


def test_a_sample_that_blows_up_keeps_its_last_finite_state_and_harms_no_other() -> None:
    solution = solve(blow_up, torch.tensor([[0.5], [50.0], [-1.0]]), method="euler", steps=20)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE, Status.SUCCESS]
    assert solution.x.isfinite().all()
    assert solution.x[[0, 2]].flatten().tolist() == pytest.approx([1.0, -0.5], abs=0.06)
    assert solution.t[1] < 1
    assert solution.nfe[1] == solution.accepted[1] + 1 < 20
    assert solution.rejected.tolist() == [0, 1, 0]
    assert solution.nfe[[0, 2]].tolist() == [20, 20]


def test_require_success_says_how_many_failed_and_why() -> None:
    good = solve(blow_up, torch.tensor([[0.5]]))
    assert good.require_success() is good
    bad = Solution(
        x=torch.zeros(4, 1),
        t=torch.tensor([1.0, 0.25, 0.5, 0.125]),
        nfe=torch.ones(4),
        accepted=torch.ones(4),
        rejected=torch.ones(4),
        status=torch.tensor([Status.SUCCESS, Status.MAX_STEPS, Status.MAX_STEPS, Status.NON_FINITE]),
    )
    with pytest.raises(SolverError, match=r"3 of 4 samples .* 2 ran out of steps, 1 became non-finite") as error:
        bad.require_success()
    assert "t = 0.125 and t = 0.5" in error.value.message
    assert error.value.hint is not None
    assert error.value.hint.startswith("loosen `rtol` and `atol`"), "what every command can do"


# ---------------------------------------------------------------- paths and graphs


def test_path_holds_the_state_at_every_point_of_the_grid() -> None:
    problem = PROBLEMS["decay"]
    grid = torch.tensor([0.0, 0.5, 0.75, 1.0])
    solution = solve(problem.f, problem.x0(), method="rk4", grid=grid, keep_path=True)
    assert solution.path is not None
    assert torch.equal(solution.path[0], problem.x0())
    assert torch.equal(solution.path[-1], solution.x)
    for t, x in zip(grid.tolist(), solution.path, strict=True):
        assert torch.allclose(x, problem.exact(problem.x0(), 0.0, t), rtol=1e-3)
    assert solve(problem.f, problem.x0(), method="rk4", grid=grid).path is None


@pytest.mark.parametrize("method", ["ab3", "rk4", "dopri5"])
def test_gradient_goes_through_the_solution_where_a_graph_is_recorded(method: str) -> None:
    rate = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    x0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-8, "atol": 1e-8} if method in ADAPTIVE else {"steps": 200}
    solution = solve(lambda x, _t, rate: -rate[:, None] * x, x0, method=method, args=(rate,), **settings)
    by_x0, by_rate = torch.autograd.grad(solution.x.sum(), (x0, rate))
    assert torch.allclose(by_x0.flatten(), torch.exp(-rate), rtol=1e-4)
    assert torch.allclose(by_rate, -torch.exp(-rate), rtol=1e-4)
    with torch.no_grad():
        assert not solve(lambda x, _t: -x, x0, method="euler", steps=2).x.requires_grad


def test_a_right_hand_side_that_takes_a_gradient_itself_works_without_a_graph_outside() -> None:
    def f(x: Tensor, _t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(-0.5 * x.square().sum(), x)[0]

    with torch.no_grad():
        assert solve(f, torch.ones(2, 3)).x.flatten().tolist() == pytest.approx([math.exp(-1)] * 6, abs=1e-4)


# ---------------------------------------------------------------- settings that do not fit


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "dopri"}, "unknown ODE method 'dopri'"),
        ({"method": "euler"}, "steps or grid"),
        ({"method": "euler", "steps": 3, "grid": [0, 1]}, "steps or grid"),
        ({"method": "euler", "steps": 0}, "at least 1"),
        ({"method": "euler", "steps": 2.5}, "whole number"),
        ({"method": "euler", "grid": [0.0]}, "two or more"),
        ({"method": "euler", "grid": []}, "two or more"),
        ({"method": "euler", "grid": 1.0}, "two or more"),
        ({"method": "euler", "grid": [0.0, 0.5, 0.5]}, "monotone"),
        ({"method": "euler", "grid": [0.0, 0.5, 0.2]}, "monotone"),
        ({"method": "euler", "grid": [0.0, math.nan]}, "finite"),
        ({"method": "euler", "steps": 3, "t1": 0.0}, "different"),
        ({"t1": 0.0}, "different"),
        ({"t1": math.inf}, "finite"),
        ({"steps": 3}, "chooses its own steps"),
        ({"grid": [0.0, 1.0]}, "chooses its own steps"),
        ({"keep_path": True}, "chooses its own steps"),
        ({"rtol": -1e-3}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"rtol": math.nan}, "rtol"),
        ({"args": (torch.zeros(3),)}, "2 samples"),
        ({"f": lambda x, _t: x[:, :1]}, r"returned shape \(2, 1\)"),
        ({"x0": torch.zeros(2, 2, dtype=torch.int64)}, "int64"),
        ({"x0": torch.zeros(2, 2, dtype=torch.bfloat16)}, "bfloat16"),
        ({"x0": torch.tensor(1.0)}, "shape"),
    ],
    ids=lambda v: None if isinstance(v, str) else ",".join(f"{k}" for k in v),
)
def test_settings_that_do_not_fit_are_refused(settings: dict, words: str) -> None:
    given = {"f": lambda x, _t: x, "x0": torch.zeros(2, 2), **settings}
    with pytest.raises(ConfigError, match=words):
        solve(**given)


def test_an_unknown_method_is_answered_with_the_names_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=", ".join(METHODS)) as error:
        steps_for("dopri-5", 3)
    assert error.value.hint == "did you mean 'dopri5'?"
