"""Adaptive solvers against exact solutions, scipy and torchdiffeq, and against their promises per sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchdiffeq
from ode_problems import (
    ADAPTIVE,
    PROBLEMS,
    Problem,
    Recorder,
    blow_up,
    each_direction,
    each_dtype,
    each_problem,
    relative_error,
)
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vpfb_core.dynamics import ode as solvers
from vpfb_core.dynamics.ode import Status, solve, steps_for
from vpfb_core.errors import ConfigError

# ---------------------------------------------------------------- exact solutions


@each_problem
@each_direction
@each_dtype
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_steps_reach_the_exact_solution_within_tolerance(
    method: str, dtype: torch.dtype, span: tuple[float, float], problem: Problem
) -> None:
    solution = solve(problem.f, problem.x0(dtype), *span, method, rtol=1e-5, atol=1e-5)
    assert solution.x.dtype == solution.t.dtype == dtype
    assert relative_error(solution.x, problem.exact(problem.x0(), *span)) < 1e-4
    assert (solution.t == torch.tensor(span[1], dtype=dtype)).all()
    assert (solution.status == Status.SUCCESS).all()


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_error_follows_the_tolerance(rtol: float) -> None:
    problem = PROBLEMS["oscillator"]
    solution = solve(problem.f, problem.x0(), 0.0, 6.0, rtol=rtol, atol=rtol)
    error = relative_error(solution.x, problem.exact(problem.x0(), 0.0, 6.0))
    assert rtol / 100 < error < 10 * rtol


def test_an_integral_meets_the_tolerance_by_itself_however_many_dimensions_the_state_has() -> None:
    """A state that stays and the integral of 50 cos 20 t, which is 2.5 sin 20 t."""

    def f(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x[:, :-1]), 50 * torch.cos(20 * t)[:, None]], 1)

    x0 = torch.zeros(1, 2001, dtype=torch.float64)
    exact = 2.5 * math.sin(20)
    errors = {
        integrals: abs(float(solve(f, x0, method="dopri5", integrals=integrals).require_success().x[0, -1]) - exact)
        for integrals in (0, 1)
    }
    assert errors[1] < 1e-3, "a few steps of a tolerance of 1e-4 and 1e-4 of 2.5"
    assert errors[0] > 5 * errors[1], "the mean over 2,001 dimensions hides the error"


# ---------------------------------------------------------------- other people's solvers


def test_dopri5_agrees_with_scipy_at_a_like_number_of_evaluations() -> None:
    def pendulum(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack((x[:, 1], -torch.sin(x[:, 0]) - 0.2 * x[:, 1] + torch.sin(3 * t)), 1)

    def pendulum_of_scipy(t: float, x: np.ndarray) -> list[float]:
        return [x[1], -math.sin(x[0]) - 0.2 * x[1] + math.sin(3 * t)]

    start = [[1.0, 0.0], [2.0, 0.5], [-2.0, 0.5]]
    ours = solve(pendulum, torch.tensor(start, dtype=torch.float64), 0.0, 8.0, rtol=1e-6, atol=1e-6)
    for i, x0 in enumerate(start):
        theirs = solve_ivp(pendulum_of_scipy, (0.0, 8.0), x0, rtol=1e-6, atol=1e-6)
        truth = solve_ivp(pendulum_of_scipy, (0.0, 8.0), x0, method="DOP853", rtol=1e-12, atol=1e-12)
        assert ours.x[i].tolist() == pytest.approx(theirs.y[:, -1].tolist(), abs=3e-4)
        assert ours.x[i].tolist() == pytest.approx(truth.y[:, -1].tolist(), abs=3e-4)
        assert int(ours.nfe[i]) == pytest.approx(theirs.nfev, rel=0.15)


@each_direction
def test_dopri5_agrees_with_torchdiffeq(span: tuple[float, float]) -> None:
    problem = PROBLEMS["logistic"]
    theirs = torchdiffeq.odeint(
        lambda t, x: problem.f(x, t), problem.x0(), torch.tensor(span), method="dopri5", rtol=1e-8, atol=1e-8
    )
    ours = solve(problem.f, problem.x0(), *span, rtol=1e-8, atol=1e-8)
    assert torch.allclose(ours.x, theirs[-1], atol=1e-6)


# ---------------------------------------------------------------- where f is called, and how often


@each_dtype
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7), (-3.0, 1 / 3)])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_steps_count_every_call_and_stay_inside_the_interval(
    method: str, span: tuple[float, float], dtype: torch.dtype
) -> None:
    recorder = Recorder()
    solution = solve(recorder, torch.ones(1, 1, dtype=dtype), *span, method)
    low, high = sorted(torch.tensor(span, dtype=dtype).tolist())
    assert all(low <= t <= high for t in recorder.times)
    assert solution.nfe.tolist() == [len(recorder.times)]
    assert solution.t.item() == torch.tensor(span[1], dtype=dtype).item()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_an_adaptive_method_has_no_number_of_steps_beforehand(method: str) -> None:
    with pytest.raises(ConfigError, match="chooses its own steps"):
        steps_for(method, 20)


# ---------------------------------------------------------------- each sample by itself


def relax(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
    return -rate[:, None] * (x - torch.cos(t)[:, None])


RATES = torch.tensor([1.0, 80.0, 10.0, 30.0, 0.1, 3.0], dtype=torch.float64)


@pytest.fixture(params=[1, 4], ids=["compacting every step", "compacting every fourth step"])
def check_every(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on an accelerator."""
    monkeypatch.setattr(solvers, "_CHECK_EVERY", {"cpu": request.param})


as_on_every_device = pytest.mark.usefixtures("check_every")


@as_on_every_device
@each_dtype
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_sample_does_not_depend_on_its_batch(method: str, dtype: torch.dtype) -> None:
    rates = RATES.to(dtype)
    x0 = torch.randn(len(rates), 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    batch = solve(relax, x0, args=(rates,), method=method)
    assert len(set(batch.nfe.tolist())) == len(rates), "every stiffness needs its own number of evaluations"
    assert batch.nfe[RATES.argsort()].diff().gt(0).all()
    for i in range(len(rates)):
        single = solve(relax, x0[i : i + 1], args=(rates[i : i + 1],), method=method)
        assert torch.allclose(batch.x[i], single.x[0], rtol=1e-6, atol=1e-7)
        for count in ("nfe", "accepted", "rejected", "status"):
            assert getattr(batch, count)[i] == getattr(single, count)[0], count


def test_finished_samples_are_compacted_away_with_their_args() -> None:
    sizes = []

    def f(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        assert len(x) == len(t) == len(rate)
        sizes.append(len(x))
        return relax(x, t, rate)

    solution = solve(f, torch.ones(6, 2, dtype=torch.float64), args=(RATES,))
    assert sizes[0] == 6
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(solution.nfe.sum())


class Waits(TorchFunctionMode):
    """Counts what makes a host wait for its device: values read, and results whose size depends on values."""

    READS = frozenset(
        ("item", "tolist", "numpy", "cpu", "nonzero", "equal", "allclose", "__bool__", "__int__", "__float__")
    )
    count = 0

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        del types
        name = func.__name__
        masks = name == "__getitem__" and getattr(args[1], "dtype", None) == torch.bool
        self.count += name in self.READS or masks
        return func(*args, **(kwargs or {}))


def test_the_only_wait_for_the_device_is_the_check_every_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_CHECK_EVERY", {"cpu": 4})
    rates = torch.tensor([1.0, 10.0, 0.1])
    with Waits() as waits:
        solution = solve(relax, torch.ones(3, 2), args=(rates,))
    attempts = int((solution.accepted + solution.rejected).max())
    assert 0 < waits.count <= attempts // 4 + 2
    with Waits() as waits:
        solve(relax, torch.ones(3, 2), args=(rates,), method="ab3", steps=9)
    assert waits.count == 0


# ---------------------------------------------------------------- samples that fail


@as_on_every_device
def test_adaptive_steps_stop_before_a_singularity_and_harm_no_other() -> None:
    solution = solve(blow_up, torch.tensor([[0.5], [4.0], [-1.0]]))
    assert solution.status.tolist() == [Status.SUCCESS, Status.STEP_TOO_SMALL, Status.SUCCESS]
    assert solution.x.isfinite().all()
    assert solution.t.tolist() == pytest.approx([1.0, 0.25, 1.0], abs=1e-3)
    assert solution.x[[0, 2]].flatten().tolist() == pytest.approx([1.0, -0.5], rel=1e-3)
    alone = solve(blow_up, torch.tensor([[0.5], [-1.0]]))
    assert solution.nfe[[0, 2]].tolist() == alone.nfe.tolist()


@as_on_every_device
def test_a_sample_that_leaves_the_domain_of_f_is_non_finite() -> None:
    def f(x: Tensor, _t: Tensor) -> Tensor:
        return torch.where(x < 0.75, 1.0, math.nan)  # x = x0 + t

    solution = solve(f, torch.tensor([[-1.0], [0.0], [math.nan], [0.9]]))
    assert solution.status.tolist() == [Status.SUCCESS, *[Status.NON_FINITE] * 3]
    assert solution.t.tolist() == pytest.approx([1.0, 0.75, 0.0, 0.0], abs=1e-4)
    assert solution.x[[0, 1, 3]].flatten().tolist() == pytest.approx([0.0, 0.75, 0.9], abs=1e-4)


@as_on_every_device
def test_overflow_does_not_pass_as_a_small_relative_error() -> None:
    huge = torch.tensor([[3.3e38]])
    solution = solve(lambda x, _t: torch.full_like(x, 2e37), huge)  # leaves float32 at t = 0.51
    assert solution.status.item() == Status.NON_FINITE
    assert solution.x.item() == pytest.approx(3.4028e38, rel=1e-4)


@as_on_every_device
def test_too_many_steps_are_a_status_per_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "MAX_STEPS", 10)
    solution = solve(relax, torch.ones(2, 1), args=(torch.tensor([1.0, 1000.0]),))
    assert solution.status.tolist() == [Status.SUCCESS, Status.MAX_STEPS]
    assert solution.accepted[1] + solution.rejected[1] == 10
    assert 0 < solution.t[1] < 1


@as_on_every_device
def test_exactly_enough_steps_are_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = int(solve(relax, torch.ones(1, 1), args=(torch.ones(1),)).accepted)
    for most, status in ((needed, Status.SUCCESS), (needed - 1, Status.MAX_STEPS)):
        monkeypatch.setattr(solvers, "MAX_STEPS", most)
        assert solve(relax, torch.ones(1, 1), args=(torch.ones(1),)).status.item() == status
