"""Sampling and encoding: the flow du/dφ = ∇_u N(u, φ), from noise to data and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vpfb_core.dynamics.solvers import Solution, solve, steps_for
from vpfb_core.dynamics.tableaux import AB3, ARC3, find_method, is_adaptive
from vpfb_core.errors import ConfigError
from vpfb_core.methods.guidance import arc_velocity
from vpfb_core.methods.vpfb.potential import Potential

DEFAULT_METHOD = ARC3.name
DEFAULT_NFE = 16
DEFAULT_TOLERANCE = 1e-4
# Steps of the arc are laid out by a time τ with tan φ = r τ / (1 − τ), that of straight paths to data of deviation r,
# as τ = τ_max (1 − (1 − q)^p): finest where the flow leaves the noise and bends most, and finer again before the data,
# so that the last step, which nothing corrects, is short. Chosen by benchmarks/solvers.py.
GRID_RATIO, GRID_POWER = 0.5, 1.3


class Layout(NamedTuple):
    """A method of fixed step and the angles that it steps on."""

    method: str
    grid: list[float]


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

    def layout(self, start: float, end: float, entry: float | None = None) -> Layout | None:
        """The steps of this solver along the arc, where arc3 is ab3 unless it begins in noise; None if adaptive.

        Args:
            start, end: angles, in either order.
            entry: the angle on the way at which the points lie already; the rest of the usual steps is taken.
        """
        if self.nfe is None:
            return None
        # Only pure noise may be left without being looked at (`tableaux.HALFWAY`).
        elsewhere = self.method == ARC3.name and (start if entry is None else entry) != 0
        method = AB3.name if elsewhere else self.method
        grid = arc_grid(start, end, steps_for(method, self.nfe))
        return Layout(method, grid if entry is None else [entry, *(angle for angle in grid if angle > entry)])


DEFAULT_SOLVER = Solver(DEFAULT_METHOD, DEFAULT_NFE, DEFAULT_TOLERANCE, DEFAULT_TOLERANCE)
ENCODING_SOLVER = Solver("dopri5", None, 1e-5, 1e-5)  # there and back again, a picture must be the same


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
    layout = solver.layout(first, end, entry=start)
    begin = first if start is None else start
    return _solve_arc(potential, noise, condition, solver, guidance, begin, end, layout, keep_path)


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
        solver: `ENCODING_SOLVER` if None.
        guidance: as in `decode`.
    Returns:
        `Solution` with x = the prior points, (N, …).
    """
    end, start = potential.angle_range
    solver = solver or ENCODING_SOLVER
    layout = solver.layout(start, end)
    return _solve_arc(potential, z, condition, solver, guidance, start, end, layout, keep_path=False)


def arc_grid(start: float, end: float, steps: int) -> list[float]:
    """The `steps` + 1 angles from `start` to `end`, finer towards noise and data, in either direction."""
    low, high = min(start, end), max(start, end)
    first, last = (math.sin(angle) / (GRID_RATIO * math.cos(angle) + math.sin(angle)) for angle in (low, high))
    times = [last - (last - first) * (1 - i / steps) ** GRID_POWER for i in range(1, steps)]
    rising = [low, *(math.atan2(GRID_RATIO * time, 1 - time) for time in times), high]
    return rising if start < end else rising[::-1]


def _solve_arc(
    potential: Potential,
    u: Tensor,
    condition: Tensor | None,
    solver: Solver,
    guidance: float | None,
    start: float,
    end: float,
    layout: Layout | None,
    keep_path: bool,
) -> Solution:
    """Follow the flow between two angles, by the steps of `layout` or, where that is None, by an adaptive method."""
    if keep_path and layout is None:
        raise ConfigError(
            f"{solver.method} chooses its own steps, so it keeps no path",
            hint="take a method of fixed step, such as arc3",
        )
    velocity, args = arc_velocity(potential, guidance), () if condition is None else (condition,)
    with torch.no_grad():
        if layout is not None:
            return solve(velocity, u, method=layout.method, args=args, grid=layout.grid, keep_path=keep_path)
        return solve(velocity, u, start, end, solver.method, args=args, rtol=solver.rtol, atol=solver.atol)
