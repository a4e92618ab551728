"""Solve dx/dt = f(x, t) for a batch of samples, each with its own time, step, status and count of evaluations.

The methods are tables (`tableaux.py`); the stepping is here, once for steps that are given and once for steps chosen
per sample. Sources: Hairer, Nørsett & Wanner, *Solving Ordinary Differential Equations I* (1993), II.4, and Hairer's
DOPRI5 code for the constants; Dormand & Prince (1980).

Whether a graph is recorded is the caller's business (`torch.no_grad`); the choice of the step size is never part of it.
Times on the device are in the dtype of the state, so nothing there is float64 unless the state is.
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
    evaluations,
    find_method,
    is_adaptive,
    steps_for,
    time_grid,
)
from vpfb_core.errors import ConfigError, SolverError

__all__ = ["METHODS", "Solution", "Status", "evaluations", "solve", "steps_for"]

RightHandSide = Callable[..., Tensor]  # f(x (n, ...), t (n,), *args (n, ...)) → (n, ...)


class Status(IntEnum):
    """How the solve of one sample ended."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3


_RUNNING = -1
_FAILURES = {
    Status.MAX_STEPS: ("ran out of steps", "raise max_steps, or loosen rtol and atol"),
    Status.STEP_TOO_SMALL: ("needed a step below the resolution of time", "loosen rtol and atol, or end earlier"),
    Status.NON_FINITE: ("became non-finite", "take smaller steps, or check the model and its input"),
}


@dataclass(frozen=True)
class Solution:
    """The end of a solve, sample by sample.

    Attributes:
        x: state at t1, (N, ...); for a sample that failed, its last finite state.
        t: the time that x belongs to, (N,), in the dtype of x.
        nfe: evaluations of f that the sample needed, (N,) int64, whatever else was in the batch.
        accepted: steps taken, (N,) int64.
        rejected: steps tried and not taken, (N,) int64.
        status: `Status`, (N,) int64.
        path: states at the points of the grid, (points, N, ...), on the CPU and without graph; only with `keep_path`.
    """

    x: Tensor
    t: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    status: Tensor
    path: Tensor | None = None

    def require_success(self) -> Solution:
        """This solution, or SolverError if a sample did not reach t1: how many, why, and what to do."""
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
    max_steps: int = 1000,
    first_step: float | None = None,
    keep_path: bool = False,
) -> Solution:
    """Solve dx/dt = f(x, t, *args) from t0 to t1, forwards or backwards.

    Methods of fixed step (euler, midpoint, heun, rk4, ab2, ab3, arc3) take `steps` or `grid`; bosh3 and dopri5 choose a
    step for each sample and take `rtol`, `atol`, `max_steps` and `first_step`. For the trajectory of the latter, solve
    piece by piece between the times that are wanted.

    Args:
        f: x (n, ...), t (n,) in the dtype of x, and the rows of `args` of the same samples → (n, ...). n falls as
            samples finish. It is never called beyond t1, and by euler, midpoint, ab2, ab3 and arc3 not at t1 either.
        x0: float32 or float64, (N, ...); N may be 0.
        args: tensors with N rows, such as conditions.
        steps: number of equal steps from t0 to t1.
        grid: strictly monotone times instead; its ends take the place of t0 and t1, which are then not read.
        rtol, atol: a step is taken when the root mean square over the sample's dimensions of
            (estimated error of the step)/(atol + rtol·max(|x|, |x_new|)) is at most 1.
        max_steps: steps that a sample may try, taken or not.
        first_step: length of the first step; by default Hairer's estimate, which costs one evaluation.
        keep_path: keep the state at every point of the grid, a copy to the CPU each step.
    Returns:
        A `Solution`. A sample that fails says so in `status` and disturbs no other.
    Raises:
        ConfigError: settings that do not exist or do not fit together, or an f that returns another shape than x.
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
                hint="use rtol and atol with it, or a method of fixed step",
            )
        return _solve_adaptively(f, x0, args, _Control(table, t0, t1, rtol, atol, max_steps, first_step))
    if first_step is not None:
        raise ConfigError(f"{method!r} takes steps or grid, not first_step")
    return _solve_on_grid(f, x0, args, table, time_grid(t0, t1, steps, grid), keep_path)


def _call(f: RightHandSide, x: Tensor, t: Tensor, args: tuple[Tensor, ...]) -> Tensor:
    if not x.numel():
        return x  # a network need not know what to do with no samples
    slope = f(x, t, *args)
    if slope.shape != x.shape:
        raise ConfigError(f"the right-hand side returned shape {tuple(slope.shape)} for a state of {tuple(x.shape)}")
    return slope.to(x.dtype)


def _finite(x: Tensor) -> Tensor:
    """(N, ...) → (N,) bool."""
    return x.isfinite().flatten(1).all(1) if x.dim() > 1 else x.isfinite()


def _rms(x: Tensor) -> Tensor:
    """(N, ...) → (N,)."""
    return x.flatten(1).square().mean(1).sqrt() if x.dim() > 1 else x.abs()


def _solve_on_grid(
    f: RightHandSide, x: Tensor, args: tuple[Tensor, ...], method: Method, grid: list[float], keep_path: bool
) -> Solution:
    """From each point of the grid to the next.

    A sample that goes non-finite stays where it last was finite. It is still evaluated with the others, which costs
    less than asking the device about it at every step, but no longer counted.
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
_CHECK_EVERY = {"cpu": 1}  # steps between compactions; elsewhere 4, since asking an accelerator means waiting for it


@dataclass(frozen=True)
class _Control:
    """What decides about steps, and is the same for all samples."""

    table: Tableau
    t0: float
    t1: float
    rtol: float
    atol: float
    max_steps: int
    first_step: float | None

    def __post_init__(self) -> None:
        check_interval(self.t0, self.t1)
        if not (0 <= self.rtol < math.inf and 0 < self.atol < math.inf):
            raise ConfigError(f"rtol must be at least 0 and atol above 0, not rtol={self.rtol}, atol={self.atol}")
        if self.max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, not {self.max_steps}")
        if self.first_step is not None and not 0 < self.first_step < math.inf:
            raise ConfigError(f"first_step must be a positive length, not {self.first_step}")

    @property
    def direction(self) -> float:
        return math.copysign(1.0, self.t1 - self.t0)

    def smallest_step(self, t: Tensor) -> Tensor:
        return 10 * torch.finfo(t.dtype).eps * t.abs().clamp(min=abs(self.t1 - self.t0))

    def error_norm(self, error: Tensor, x: Tensor, x_new: Tensor) -> Tensor:
        """(N,); infinite where anything is not finite, also when the scale is infinite and would hide it."""
        norm = _rms(error / (self.atol + self.rtol * torch.maximum(x.abs(), x_new.abs())))
        return torch.where(_finite(x_new) & norm.isfinite(), norm, math.inf)

    def factor(self, error: Tensor, previous: Tensor, accept: Tensor) -> Tensor:
        """h_next/h by the PI controller of Hairer's DOPRI5, its β = 0.04 written as 0.2/order."""
        beta = 0.2 / self.table.order
        proposal = _SAFETY * error.clamp(min=1e-10) ** (0.75 * beta - 1 / self.table.order)
        # A step that was not taken says nothing about the trend, so only the next one taken looks back.
        return torch.where(accept, proposal * previous**beta, proposal).clamp(_SHRINK, _GROW)


@dataclass(frozen=True)
class _Samples:
    """The samples still on the way, one a row, and what belongs to each."""

    index: Tensor  # row in x0
    x: Tensor
    t: Tensor
    slope: Tensor  # f(x, t), the first stage of the next step
    h: Tensor  # length of the next step, positive in both directions
    previous: Tensor  # error norm of the last step taken
    accepted: Tensor
    rejected: Tensor
    status: Tensor
    args: tuple[Tensor, ...]

    def rows(self, rows: Tensor) -> _Samples:
        taken = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "args"}
        return _Samples(**taken, args=tuple(arg[rows] for arg in self.args))


def _solve_adaptively(f: RightHandSide, x0: Tensor, args: tuple[Tensor, ...], control: _Control) -> Solution:
    samples = _start(f, x0, args, control)
    done = []
    check_every = _CHECK_EVERY.get(x0.device.type, 4)
    for attempt in range(control.max_steps):
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
    initial = 2 if control.first_step is None else 1
    nfe = initial + (accepted + rejected) * (len(control.table.c) - 1)
    status = torch.where(status == _RUNNING, Status.MAX_STEPS, status)
    return Solution(gather("x"), gather("t"), nfe, accepted, rejected, status)


def _start(f: RightHandSide, x: Tensor, args: tuple[Tensor, ...], control: _Control) -> _Samples:
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
    """The length asked for, or Hairer's estimate (Hairer et al., II.4; the exponent as in his DOPRI5), (N,)."""
    if control.first_step is not None:
        return torch.full_like(t, control.first_step)
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
    """One step tried by every sample; those that have ended are evaluated with the others and left as they are."""
    table, running = control.table, s.status == _RUNNING
    # Stretched by up to 1 % rather than leaving a sliver, and t1 itself rather than a sum that rounds to its neighbour.
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
