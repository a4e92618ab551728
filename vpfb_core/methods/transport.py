"""Sampling and encoding along the flow of a field, from noise to data and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.solver import DEFAULT_SOLVER, ENCODING_SOLVER, Solver
from vpfb_core.methods.guidance import Guided

if TYPE_CHECKING:
    from vpfb_core.methods.base import Transports


def decode(
    field: Transports,
    codes: Tensor,
    condition: Tensor | None = None,
    solver: Solver = DEFAULT_SOLVER,
    *,
    guidance: float | None = None,
    keep_path: bool = False,
    start: float | None = None,
) -> Solution:
    """Carry prior points to data along the flow.

    Args:
        codes: prior points of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        guidance: weight of the condition, as in `guidance.Guided`; None is plain.
        keep_path: keep the state at every step; for methods of fixed step.
        start: the position at which the points lie where they are on their way already. The rest of the usual steps
            is taken.
    Returns:
        `Solution` with x = data of unit variance, (N, …).
    """
    first, end = field.span
    return _follow(field, codes, condition, solver, guidance, first, end, entry=start, keep_path=keep_path)


def encode(
    field: Transports,
    data: Tensor,
    condition: Tensor | None = None,
    solver: Solver = ENCODING_SOLVER,
    *,
    guidance: float | None = None,
) -> Solution:
    """Carry data of unit variance (N, …) back to prior points, the inverse of `decode`; arguments as there.

    Returns:
        `Solution` with x = the prior points, (N, …).
    """
    end, start = field.span
    return _follow(field, data, condition, solver, guidance, start, end)


def _follow(
    field: Transports,
    x: Tensor,
    condition: Tensor | None,
    solver: Solver,
    guidance: float | None,
    start: float,
    end: float,
    *,
    entry: float | None = None,
    keep_path: bool = False,
) -> Solution:
    args = () if condition is None else (condition,)
    with torch.no_grad():
        return solver.solve(
            Guided(field, guidance).velocity, x, start, end, field.grid, args=args, entry=entry, keep_path=keep_path
        )
