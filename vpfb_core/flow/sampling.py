"""Sampling and encoding: the flow du/dφ = ∇_u N(u, φ), from noise to data and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.flow.solvers import Solution, solve, steps_for
from vpfb_core.flow.tableaux import find_method, is_adaptive
from vpfb_core.potential import Potential

DEFAULT_METHOD = "ab2"
DEFAULT_NFE = 24
DEFAULT_TOLERANCE = 1e-4
# Steps of the arc are laid out as φ = φ_max q^1.3: the flow bends most where it leaves the noise.
GRID_POWER = 1.3


@dataclass(frozen=True)
class Solver:
    """How the flow is solved: a fixed-step method within `nfe` evaluations of ∇N a sample, or an adaptive one."""

    method: str
    nfe: int | None
    rtol: float
    atol: float

    @classmethod
    def choose(
        cls,
        method: str | None = None,
        nfe: int | None = None,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> Solver:
        """The solver that these wishes mean: a tolerance asks for an adaptive method, else steps are fixed.

        Raises:
            ConfigError: an unknown method, or wishes that exclude each other.
        """
        tolerance = rtol is not None or atol is not None
        if method is None:
            method = "dopri5" if tolerance and nfe is None else DEFAULT_METHOD
        adaptive = is_adaptive(find_method(method))
        if adaptive and nfe is not None:
            raise ConfigError(
                f"{method} chooses its own number of evaluations, so nfe = {nfe} cannot be met",
                hint="set rtol and atol with it, or take a method of fixed step",
            )
        if not adaptive and tolerance:
            raise ConfigError(
                f"{method} takes a fixed number of evaluations, not a tolerance",
                hint="set nfe with it, or take the method dopri5",
            )
        if not adaptive:
            nfe = DEFAULT_NFE if nfe is None else nfe
            steps_for(method, nfe)
        first = DEFAULT_TOLERANCE if rtol is None else rtol
        return cls(method, nfe, first, first if atol is None else atol)


DEFAULT_SOLVER = Solver(DEFAULT_METHOD, DEFAULT_NFE, DEFAULT_TOLERANCE, DEFAULT_TOLERANCE)


def decode(
    potential: Potential,
    noise: Tensor,
    condition: Tensor | None = None,
    solver: Solver = DEFAULT_SOLVER,
    keep_path: bool = False,
) -> Solution:
    """Carry prior points to data along the arc, from φ(0) to the floor φ(1).

    Args:
        noise: prior points of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        keep_path: keep the state at every step; for methods of fixed step.
    Returns:
        `Solution` with x = z, the data in units of its standard deviation, (N, …).
    """
    start, end = potential.angle_range
    return _solve_arc(potential, noise, condition, solver, start, end, keep_path)


def encode(potential: Potential, z: Tensor, condition: Tensor | None = None, solver: Solver | None = None) -> Solution:
    """Carry data back to its prior points, the inverse of `decode`.

    Args:
        z: data in units of its standard deviation, (N, …).
        condition: class indices, int64 (N, G), or None.
        solver: dopri5 at the default tolerance if None, since an encoding should come back.
    Returns:
        `Solution` with x = the prior points, (N, …).
    """
    start, end = potential.angle_range
    return _solve_arc(potential, z, condition, solver or Solver.choose("dopri5"), end, start, keep_path=False)


def arc_grid(start: float, end: float, steps: int) -> list[float]:
    """The `steps` + 1 angles from `start` to `end`, finer towards the noise, in either direction."""
    low, high = min(start, end), max(start, end)
    rising = [low + (high - low) * (i / steps) ** GRID_POWER for i in range(steps + 1)]
    return rising if start < end else rising[::-1]


def _solve_arc(
    potential: Potential,
    u: Tensor,
    condition: Tensor | None,
    solver: Solver,
    start: float,
    end: float,
    keep_path: bool,
) -> Solution:
    def velocity(u: Tensor, angle: Tensor, *condition: Tensor) -> Tensor:
        return potential.arc(u, angle, *condition).gradient

    if keep_path and solver.nfe is None:
        raise ConfigError(
            f"{solver.method} chooses its own steps, so it keeps no path",
            hint="take a method of fixed step, such as ab2",
        )
    args = () if condition is None else (condition,)
    with torch.no_grad():
        if solver.nfe is not None:
            grid = arc_grid(start, end, steps_for(solver.method, solver.nfe))
            return solve(velocity, u, method=solver.method, args=args, grid=grid, keep_path=keep_path)
        return solve(velocity, u, start, end, solver.method, args=args, rtol=solver.rtol, atol=solver.atol)
