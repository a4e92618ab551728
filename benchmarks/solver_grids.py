"""Grids of the arc for comparison: given by a formula, derived from the flow of a model, or fitted to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vpfb_core.dynamics.solver import Solver
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.transport import decode
from vpfb_core.methods.vpfb.field import PotentialField

Steps = Callable[[int], Sequence[float]]  # number of steps → their angles
PATH_STEPS = 64
POWERS = (1.0, 1.15, 1.3, 1.45, 1.6)


def both_ends(last: float, a: float, b: float) -> Steps:
    """φ = φ_max (1 − (1 − q^a)^b): a > 1 is finer towards the noise, b > 1 towards the data."""
    return lambda steps: (last * (1 - (1 - np.linspace(0, 1, steps + 1) ** a) ** b)).tolist()


def grids(field: PotentialField) -> dict[str, Steps]:
    """The grids that are given by a formula, by name."""
    (_, last), potential = field.span, field.potential
    schedule, a = potential.homotopy if isinstance(potential.homotopy, OT) else OT(), potential.data_std

    def in_time(steps: int) -> list[float]:
        angles: list[float] = schedule.angle(torch.linspace(0, 1, steps + 1, dtype=torch.float64), a).tolist()
        return [*angles[:-1], last]

    def in_log_tangent(steps: int) -> list[float]:
        lengths = np.linspace(np.log(0.05), np.log(np.tan(last)), steps)
        return [0.0, *np.arctan(np.exp(lengths))[:-1].tolist(), last]

    named = {f"φ_max q^{power:g}": both_ends(last, power, 1.0) for power in (0.8, 1.0, 1.3, 1.6)}
    named["φ_max (1 − (1 − q)^1.3)"] = both_ends(last, 1.0, 1.3)
    named["φ_max (1 − (1 − q^1.25)^1.25)"] = both_ends(last, 1.25, 1.25)
    named["default grid"] = lambda steps: field.grid(0.0, last, steps)
    return named | {"uniform in t of ot": in_time, "uniform in log tan φ": in_log_tangent}


def measured(field: PotentialField, noise: Tensor) -> dict[str, Steps]:
    """The grids that divide the length of paths from some noise, and the root of their curvature, into equal parts."""
    solution = decode(field, noise, solver=Solver.choose("arc3", nfe=PATH_STEPS), keep_path=True)
    assert solution.path is not None
    angles = np.asarray(field.grid(*field.span, PATH_STEPS))
    speeds = solution.path.diff(dim=0).double().flatten(1) / torch.from_numpy(np.diff(angles))[:, None]
    middles = (angles[1:] + angles[:-1]) / 2
    bends = (speeds.diff(dim=0) / torch.from_numpy(np.diff(middles))[:, None]).square().mean(1).sqrt()
    return {
        "equal arc length": _equidistributed(angles, middles, speeds.square().mean(1).sqrt().numpy()),
        "equal curvature": _equidistributed(angles, angles[1:-1], bends.sqrt().numpy()),
    }


def _equidistributed(angles: np.ndarray, where: np.ndarray, density: np.ndarray) -> Steps:
    """A grid whose steps contain equal parts of a density that is known at some angles."""
    height = np.interp(angles, where, density)
    mass = np.concatenate([[0.0], np.cumsum((height[1:] + height[:-1]) / 2 * np.diff(angles))])
    return lambda steps: np.interp(np.linspace(0, mass[-1], steps + 1), mass, angles).tolist()


def fitted(field: PotentialField, distance: Callable[[Steps], float]) -> tuple[tuple[float, float], Steps]:
    """The powers (a, b) of `both_ends` with the least distance to the converged solution, and their grid."""
    _, last = field.span
    powers = min(itertools.product(POWERS, POWERS), key=lambda pair: distance(both_ends(last, *pair)))
    return powers, both_ends(last, *powers)
