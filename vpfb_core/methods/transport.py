"""Decoding from noise to data, and encoding from data to noise, along the flow of a field."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.solver import DEFAULT_SOLVER, ENCODING_SOLVER, Solver
from vpfb_core.methods.fields import Transports
from vpfb_core.methods.guidance import Guided


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
    """Transport points of the prior to data along the flow.

    Args:
        field: a field with a flow.
        codes: points of the prior, of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        solver: the solver of the flow.
        guidance: the guidance weight (see `guidance.Guided`); None uses none.
        keep_path: whether the state at every step is kept, which only fixed-step methods allow.
        start: the position of the points, if it is not that of the prior. Only the usual steps after it are taken.
    Returns:
        A `Solution` whose x are data of unit variance, (N, …), and whose nfe counts evaluations of the field: two per
        evaluation of a guided velocity.
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
    """Transport data to points of the prior; the inverse of `decode`.

    Args:
        field: a field with a flow.
        data: data of unit variance, (N, …).
        condition, solver, guidance: as in `decode`.
    Returns:
        A `Solution` whose x are points of the prior, (N, …).
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
    args, guided = () if condition is None else (condition,), Guided(field, guidance)
    with torch.no_grad():
        found = solver.solve(guided.velocity, x, start, end, field.grid, args=args, entry=entry, keep_path=keep_path)
    return replace(found, nfe=found.nfe * guided.cost(condition))
