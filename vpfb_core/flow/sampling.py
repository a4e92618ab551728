"""Sampling and encoding: the flow du/dφ = ∇_u N(u, φ), from noise to data and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.flow.guidance import arc_velocity
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

    @property
    def wishes(self) -> dict[str, Any]:
        """What `choose` makes this very solver of."""
        if self.nfe is not None:
            return {"method": self.method, "nfe": self.nfe}
        return {"method": self.method, "rtol": self.rtol, "atol": self.atol}


DEFAULT_SOLVER = Solver(DEFAULT_METHOD, DEFAULT_NFE, DEFAULT_TOLERANCE, DEFAULT_TOLERANCE)


def decode(
    potential: Potential,
    noise: Tensor,
    condition: Tensor | None = None,
    solver: Solver = DEFAULT_SOLVER,
    keep_path: bool = False,
    *,
    guidance: float | None = None,
    start: float | None = None,
) -> Solution:
    """Carry prior points to data along the arc, from φ(0) to the floor φ(1).

    Args:
        noise: prior points of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        keep_path: keep the state at every step; for methods of fixed step.
        guidance: weight of the condition, as in `guidance.guided_arc`; None is plain.
        start: the angle at which `noise` lies where it is on its way already. The rest of the usual steps is taken.
    Returns:
        `Solution` with x = z, the data in units of its standard deviation, (N, …).
    """
    first, end = potential.angle_range
    grid = None if solver.nfe is None else arc_grid(first, end, steps_for(solver.method, solver.nfe))
    if start is not None and grid is not None:
        grid = [start, *(angle for angle in grid if angle > start)]
    begin = first if start is None else start
    return _solve_arc(potential, noise, condition, solver, guidance, begin, end, grid, keep_path)


def encode(
    potential: Potential,
    z: Tensor,
    condition: Tensor | None = None,
    solver: Solver | None = None,
    *,
    guidance: float | None = None,
) -> Solution:
    """Carry data back to its prior points, the inverse of `decode`.

    Args:
        z: data in units of its standard deviation, (N, …).
        condition: class indices, int64 (N, G), or None.
        solver: dopri5 at the default tolerance if None, since an encoding should come back.
        guidance: as in `decode`.
    Returns:
        `Solution` with x = the prior points, (N, …).
    """
    end, start = potential.angle_range
    solver = solver or Solver.choose("dopri5")
    grid = None if solver.nfe is None else arc_grid(start, end, steps_for(solver.method, solver.nfe))
    return _solve_arc(potential, z, condition, solver, guidance, start, end, grid, keep_path=False)


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
    guidance: float | None,
    start: float,
    end: float,
    grid: list[float] | None,
    keep_path: bool,
) -> Solution:
    """Follow the flow between two angles, by the steps of `grid` or, where that is None, by an adaptive method."""
    if keep_path and grid is None:
        raise ConfigError(
            f"{solver.method} chooses its own steps, so it keeps no path",
            hint="take a method of fixed step, such as ab2",
        )
    velocity, args = arc_velocity(potential, guidance), () if condition is None else (condition,)
    with torch.no_grad():
        if grid is not None:
            return solve(velocity, u, method=solver.method, args=args, grid=grid, keep_path=keep_path)
        return solve(velocity, u, start, end, solver.method, args=args, rtol=solver.rtol, atol=solver.atol)
