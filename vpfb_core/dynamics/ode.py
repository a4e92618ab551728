"""Solve dx/dt = f(x, t) for a batch of samples, each with its own time, step, status and count of evaluations.

The methods are tables (`tableaux.py`). This module does the stepping: on a given grid, and with steps that are chosen
per sample. Sources: Hairer, Nørsett & Wanner, *Solving Ordinary Differential Equations I* (1993), II.4; Hairer's DOPRI5
code for the constants; Dormand & Prince (1980).

The caller decides whether autograd records the solve (`torch.no_grad`); the choice of a step size is never recorded.
Times on the device have the dtype of the state, so that a device without float64 can be used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.dynamics.tableaux import (
    METHODS,
    Method,
    Slope,
    Tableau,
    check_interval,
    combine,
    find_method,
    is_adaptive,
    steps_for,
    time_grid,
)
from vpfb_core.errors import ConfigError, SolverError

__all__ = ["METHODS", "Solution", "Status", "solve", "steps_for"]

MAX_STEPS = 1000  # of a sample by an adaptive method, accepted or rejected
RightHandSide = Callable[..., Tensor]  # f(x (n, ...), t (n,), *args (n, ...)) → (n, ...)


class Status(IntEnum):
    """How the solve of one sample ended."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3


_RUNNING = -1
_FAILURES = {  # status → (what happened to a sample, what to do about it)
    Status.MAX_STEPS: ("ran out of steps", "loosen `rtol` and `atol`"),
    Status.STEP_TOO_SMALL: ("needed a step below the resolution of time", "loosen `rtol` and `atol`, or end earlier"),
    Status.NON_FINITE: ("became non-finite", "take smaller steps, or check the model and its input"),
}


@dataclass(frozen=True)
class Solution:
    """The result of a solve for N samples.

    Attributes:
        x: the state at t1, (N, ...); for a sample that failed, its last finite state.
        t: the time of x, (N,), in the dtype of x.
        nfe: evaluations of f per sample, (N,) int64. They do not depend on the other samples of the batch.
        accepted: accepted steps per sample, (N,) int64.
        rejected: rejected steps per sample, (N,) int64.
        status: the `Status` of each sample, (N,) int64.
        path: the states at the points of the grid, (points, N, ...), on the CPU and detached; only with `keep_path`.
    """

    x: Tensor
    t: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    status: Tensor
    path: Tensor | None = None

    def require_success(self) -> Solution:
        """Return this solution if every sample reached t1.

        Raises:
            SolverError: a sample did not reach t1. The message says how many and why, the hint what to do.
        """
        status = self.status.cpu()
        counts = {failure: int((status == failure).sum()) for failure in _FAILURES}
        failures = [failure for failure, count in counts.items() if count]
        if not failures:
            return self
        stops = self.t.detach().cpu()[status != Status.SUCCESS]
        raise SolverError(
            f"{len(stops)} of {len(status)} samples did not reach the end of the flow: "
            + ", ".join(f"{counts[failure]} {_FAILURES[failure][0]}" for failure in failures)
            + f" (between t = {stops.min():.6g} and t = {stops.max():.6g})",
            hint="; ".join(_FAILURES[failure][1] for failure in failures),
        )


def solve(
    f: RightHandSide,
    x0: Tensor,
    t0: float = 0.0,
    t1: float = 1.0,
    method: str = "dopri5",
    *,
    args: tuple[Tensor, ...] = (),
    steps: int | None = None,
    grid: Sequence[float] | Tensor | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    integrals: int = 0,
    keep_path: bool = False,
) -> Solution:
    """Solve dx/dt = f(x, t, *args) from t0 to t1, forwards or backwards.

    Fixed-step methods (euler, midpoint, heun, rk4, ab2, ab3, arc3) take `steps` or `grid`. Adaptive methods (bosh3,
    dopri5) choose the steps of each sample and take `rtol`, `atol` and `integrals`, and at most `MAX_STEPS` steps per
    sample. They keep no path; to get states on the way, solve in several calls between the times that are wanted.

    Args:
        f: maps x (n, ...), t (n,) in the dtype of x, and the rows of `args` of the same samples to (n, ...). n falls as
            samples finish. f is never called beyond t1; euler, midpoint, ab2, ab3 and arc3 do not call it at t1 either.
        x0: the initial state, float32 or float64, (N, ...); N may be 0.
        t0, t1: the initial and the final time, in either order.
        method: the name of an ODE method.
        args: tensors with N rows, such as conditions.
        steps: the number of equal steps from t0 to t1.
        grid: strictly monotone times. Its ends replace t0 and t1, which are then ignored.
        rtol, atol: tolerances. A step is accepted if the root mean square over the sample's dimensions of
            (estimated error of the step)/(atol + rtol·max(|x|, |x_new|)) is at most 1.
        integrals: the number of the last columns of x0 (N, d) that are integrals along the path, such as a log-density.
            Each must meet the tolerances by itself, since its error would hardly show in the mean over d dimensions.
        keep_path: whether the state at every point of the grid is copied to the CPU and returned.
    Returns:
        A `Solution`. The failure of a sample is recorded in `status` and does not affect the other samples.
    Raises:
        ConfigError: a setting does not exist or does not fit the method, or f returns another shape than x.
    """
    table = find_method(method)
    if x0.dim() == 0 or x0.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"x0 must be float32 or float64 of shape (N, ...), not {x0.dtype} {tuple(x0.shape)}")
    for i, arg in enumerate(args):
        if arg.dim() == 0 or len(arg) != len(x0):
            raise ConfigError(f"args[{i}] has shape {tuple(arg.shape)}, but there are {len(x0)} samples")
    if is_adaptive(table):
        if steps is not None or grid is not None or keep_path:
            raise ConfigError(
                f"{method!r} chooses its own steps, so it takes no steps, grid or keep_path",
                hint="use rtol and atol with it, or a fixed-step method",
            )
        return _solve_adaptively(f, x0, args, _Control(table, t0, t1, rtol, atol, integrals))
    return _solve_on_grid(f, x0, args, table, time_grid(t0, t1, steps, grid), keep_path)


def _call(f: RightHandSide, x: Tensor, t: Tensor, args: tuple[Tensor, ...]) -> Tensor:
    if not x.numel():
        return x  # not every network accepts an empty batch
    slope = f(x, t, *args)
    if slope.shape != x.shape:
        raise ConfigError(f"the right-hand side returned shape {tuple(slope.shape)} for a state of {tuple(x.shape)}")
    return slope.to(x.dtype)


def _finite(x: Tensor) -> Tensor:
    """Whether all numbers of each sample are finite, (N, ...) → (N,) bool."""
    return x.isfinite().flatten(1).all(1) if x.dim() > 1 else x.isfinite()


def _rms(x: Tensor) -> Tensor:
    """The root mean square of each sample, (N, ...) → (N,)."""
    return x.flatten(1).square().mean(1).sqrt() if x.dim() > 1 else x.abs()


def _solve_on_grid(
    f: RightHandSide, x: Tensor, args: tuple[Tensor, ...], method: Method, grid: list[float], keep_path: bool
) -> Solution:
    """Solve with a fixed-step method from each point of the grid to the next.

    A sample that becomes non-finite keeps its last finite state. It is still evaluated with the others, since finding
    it would cost a synchronisation with the device at every step, but its evaluations are no longer counted.
    """
    alive = _finite(x)
    t = x.new_full((len(x),), grid[0])
    nfe, accepted, rejected = (torch.zeros_like(alive, dtype=torch.int64) for _ in range(3))
    path = [x.detach().cpu()] if keep_path else []
    slopes: list[Slope] = []
    for i in range(len(grid) - 1):
        x_new, slopes = method.grid_step(lambda x, t: _call(f, x, t, args), x, grid, i, slopes)
        taken = alive & _finite(x_new)
        nfe, accepted, rejected = nfe + method.costs[min(i, 1)] * alive, accepted + taken, rejected + (alive & ~taken)
        alive = taken
        x, t = torch.where(expand_to(alive, x), x_new, x), torch.where(alive, grid[i + 1], t)
        if keep_path:
            path.append(x.detach().cpu())
    status = torch.where(alive, Status.SUCCESS, Status.NON_FINITE)
    return Solution(x, t, nfe, accepted, rejected, status, torch.stack(path) if path else None)


_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
# Steps between removals of finished samples from the batch. It is 4 on accelerators, where it means a synchronisation.
_CHECK_EVERY = {"cpu": 1}


@dataclass(frozen=True)
class _Control:
    """The method and the settings of step-size control, which are the same for all samples."""

    table: Tableau
    t0: float
    t1: float
    rtol: float
    atol: float
    integrals: int

    def __post_init__(self) -> None:
        check_interval(self.t0, self.t1)
        if not (0 <= self.rtol < math.inf and 0 < self.atol < math.inf):
            raise ConfigError(f"rtol must be at least 0 and atol above 0, not rtol={self.rtol}, atol={self.atol}")

    @property
    def direction(self) -> float:
        """1 if time runs forwards from t0 to t1, −1 if it runs backwards."""
        return math.copysign(1.0, self.t1 - self.t0)

    def smallest_step(self, t: Tensor) -> Tensor:
        """The shortest step that the resolution of time allows, (N,)."""
        return 10 * torch.finfo(t.dtype).eps * t.abs().clamp(min=abs(self.t1 - self.t0))

    def error_norm(self, error: Tensor, x: Tensor, x_new: Tensor) -> Tensor:
        """The error of a step relative to the tolerance, (N,).

        It is infinite if the new state is not finite, also where an infinite scale would hide that.
        """
        relative = error / (self.atol + self.rtol * torch.maximum(x.abs(), x_new.abs()))
        if self.integrals:
            states, integrals = relative[:, : -self.integrals], relative[:, -self.integrals :]
            norm = torch.maximum(_rms(states), integrals.abs().amax(1))
        else:
            norm = _rms(relative)
        return torch.where(_finite(x_new) & norm.isfinite(), norm, math.inf)

    def factor(self, error: Tensor, previous: Tensor, accept: Tensor) -> Tensor:
        """h_next/h by the PI controller of Hairer's DOPRI5, whose β = 0.04 is written as 0.2/order, (N,)."""
        beta = 0.2 / self.table.order
        proposal = _SAFETY * error.clamp(min=1e-10) ** (0.75 * beta - 1 / self.table.order)
        # A rejected step says nothing about the trend, so the previous error is used only after an accepted one.
        return torch.where(accept, proposal * previous**beta, proposal).clamp(_SHRINK, _GROW)


@dataclass(frozen=True)
class _Samples:
    """The samples that are still being solved, one per row, and the state of each."""

    index: Tensor  # the row in x0
    x: Tensor
    t: Tensor
    slope: Tensor  # f(x, t), the first stage of the next step
    h: Tensor  # the length of the next step, positive in both directions
    previous: Tensor  # the error norm of the last accepted step
    accepted: Tensor
    rejected: Tensor
    status: Tensor
    args: tuple[Tensor, ...]

    def rows(self, rows: Tensor) -> _Samples:
        """The samples of these rows."""
        taken = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "args"}
        return _Samples(**taken, args=tuple(arg[rows] for arg in self.args))


def _solve_adaptively(f: RightHandSide, x0: Tensor, args: tuple[Tensor, ...], control: _Control) -> Solution:
    """Solve with an adaptive method, removing finished samples from the batch."""
    samples = _start(f, x0, args, control)
    done = []
    check_every = _CHECK_EVERY.get(x0.device.type, 4)
    for attempt in range(MAX_STEPS):
        if attempt % check_every == 0:
            running = samples.status == _RUNNING
            n = int(running.sum())  # the one place where the host waits for the device
            if n < len(running):
                order = running.int().argsort(stable=True)
                done.append(samples.rows(order[: len(order) - n]))
                samples = samples.rows(order[len(order) - n :])
            if n == 0:
                break
        samples = _try_step(f, samples, control)
    done.append(samples)
    back = torch.cat([part.index for part in done]).argsort()

    def gather(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in done])[back]

    accepted, rejected, status = gather("accepted"), gather("rejected"), gather("status")
    nfe = 2 + (accepted + rejected) * (len(control.table.c) - 1)  # two for the first slope and the first step
    status = torch.where(status == _RUNNING, Status.MAX_STEPS, status)
    return Solution(gather("x"), gather("t"), nfe, accepted, rejected, status)


def _start(f: RightHandSide, x: Tensor, args: tuple[Tensor, ...], control: _Control) -> _Samples:
    """All samples at t0, with their first slope and the length of their first step."""
    t = x.new_full((len(x),), control.t0)
    slope = _call(f, x, t, args)
    h = _first_step(f, x, t, slope, args, control)
    zeros = torch.zeros_like(t, dtype=torch.int64)
    return _Samples(
        index=torch.arange(len(x), device=x.device),
        x=x,
        t=t,
        slope=slope,
        h=torch.maximum(h, control.smallest_step(t)),
        previous=torch.full_like(t, 1e-4),
        accepted=zeros,
        rejected=zeros,
        status=torch.where(_finite(x) & _finite(slope), _RUNNING, Status.NON_FINITE),
        args=args,
    )


@torch.no_grad()
def _first_step(
    f: RightHandSide, x: Tensor, t: Tensor, slope: Tensor, args: tuple[Tensor, ...], control: _Control
) -> Tensor:
    """The length of the first step, (N,), by Hairer's estimate (Hairer et al., II.4, exponent of DOPRI5)."""
    scale = control.atol + control.rtol * x.abs()
    size, speed = _rms(x / scale), _rms(slope / scale)
    probe = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    probe = probe.clamp(max=abs(control.t1 - control.t0))
    step = control.direction * probe
    bend = _rms((_call(f, x + expand_to(step, x) * slope, t + step, args) - slope) / scale) / probe
    steepest = torch.maximum(speed, bend)
    h = torch.where(steepest > 1e-15, (0.01 / steepest) ** (1 / control.table.order), (1e-3 * probe).clamp(min=1e-6))
    return torch.where(h.isfinite(), torch.minimum(100 * probe, h), probe)


def _try_step(f: RightHandSide, s: _Samples, control: _Control) -> _Samples:
    """Try one step of every sample. Finished samples are evaluated with the others but not changed."""
    table, running = control.table, s.status == _RUNNING
    # The last step is stretched by up to 1 %, so that no tiny step remains. It ends exactly at t1, without rounding.
    last = 1.01 * s.h >= (control.t1 - s.t).abs()
    t_new = torch.where(last, control.t1, s.t + control.direction * s.h)
    h = t_new - s.t
    step = expand_to(h, s.x)
    k = table.slopes(
        lambda x, t: _call(f, x, t, s.args), s.x, step, lambda c: t_new if c == 1 else s.t + c * h, first=s.slope
    )
    x_new = s.x + step * combine(table.b, k)
    with torch.no_grad():
        error = control.error_norm(step * combine(table.error, k), s.x, x_new)
        accept = error <= 1
        h_next = h.abs() * control.factor(error, s.previous, accept)
        stuck = running & ~accept & (h_next < control.smallest_step(s.t))
        taken = running & accept
        ended = torch.where(error.isfinite(), Status.STEP_TOO_SMALL, Status.NON_FINITE)
        status = torch.where(stuck, ended, torch.where(taken & last, Status.SUCCESS, s.status))
    move = expand_to(taken, s.x)
    return replace(
        s,
        x=torch.where(move, x_new, s.x),
        t=torch.where(taken, t_new, s.t),
        slope=torch.where(move, k[-1], s.slope),
        h=torch.where(running, h_next, s.h),
        previous=torch.where(taken, error.clamp(min=1e-4), s.previous),
        accepted=s.accepted + taken,
        rejected=s.rejected + (running & ~accept),
        status=status,
    )
