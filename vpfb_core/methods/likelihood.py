"""The likelihood by the flow: log p(x, s) = log N(x₀; 0, I) − ∫ ∇·v ds along the encoding of x, v the velocity.

The instantaneous change of variables (Chen et al. 2018, arXiv 1806.07366) with the trace exact in few dimensions and by
Hutchinson's estimator in many (Grathwohl et al. 2019, arXiv 1810.01367). It is the normalised density of what the flow
draws: nothing in it has to be calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpfb_core.dynamics.solver import Solver

if TYPE_CHECKING:
    from vpfb_core.methods.base import Transports

EXACT_TRACE_DIMENSION = 16  # up to here the trace costs less than the probes that would replace it


@dataclass(frozen=True)
class Likelihood:
    """Densities along the encodings of N points.

    Attributes:
        log_density: of the flow at each position asked for, in the coordinates of the field, nats, (positions, N), in
            the dtype of x.
        x: the encodings at these positions, (positions, N, …).
        codes: prior points, (N, …).
        nfe: evaluations of the velocity and its divergence per point, (N,) int64.
    """

    log_density: Tensor
    x: Tensor
    codes: Tensor
    nfe: Tensor


def log_likelihood(
    field: Transports,
    x: Tensor,
    positions: Sequence[float],
    condition: Tensor | None = None,
    *,
    probes: Tensor | None = None,
    solver: Solver | None = None,
) -> Likelihood:
    """The flow's log-density at x, and at the points that its encoding passes.

    Args:
        x: points of the field at the first position, float32 or float64, (N, …).
        positions: where the density is asked for, falling towards the prior.
        condition: class indices, int64 (N, G), or None.
        probes: ±1, (N, probes, …), for Hutchinson's estimate; None takes the exact trace, at the cost of d second
            differentiations. Either way the divergence is a smooth function along the path.
        solver: dopri5 at the default tolerance if None.
    Raises:
        SolverError: the encoding of some point did not reach the prior.
    """
    dimension = x[0].numel()
    solver = solver or Solver.choose("dopri5")
    args = tuple(arg for arg in (probes, condition) if arg is not None)

    def slope(state: Tensor, s: Tensor, *args: Tensor) -> Tensor:
        rows = iter(args)
        some_probes = None if probes is None else next(rows)
        velocity, divergence = velocity_and_divergence(
            field, state[:, :-1].reshape(-1, *x.shape[1:]), s, next(rows, None), some_probes
        )
        return torch.cat([velocity.flatten(1), divergence[:, None]], dim=1)

    state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], dim=1)
    nfe = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    passed = [state]
    for start, end in pairwise([*positions, field.span[0]]):
        if end < start:
            with torch.no_grad():
                solution = solver.solve(slope, state, start, end, field.grid, args=args).require_success()
            state, nfe = solution.x, nfe + solution.nfe
        passed.append(state)
    codes = state[:, :-1]
    prior = -0.5 * (codes.square().sum(1) + dimension * math.log(2 * math.pi))
    path = torch.stack(passed[:-1])
    return Likelihood(
        log_density=prior + (state[:, -1] - path[:, :, -1]),
        x=path[:, :, :-1].reshape(len(positions), *x.shape),
        codes=codes.reshape(x.shape),
        nfe=nfe,
    )


def velocity_and_divergence(
    field: Transports, x: Tensor, s: Tensor, condition: Tensor | None = None, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The velocity, like x, and its divergence, (N,): exact, or Σ vᵀ (∂velocity/∂x) v over the probes v, averaged.

    Keeps no graph. Arguments as in `log_likelihood`.
    """
    # Copies, because tensors made under torch.inference_mode cannot be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        x, s = x.detach().clone().requires_grad_(), s.detach().clone()
        velocity = field.velocity(x, s, None if condition is None else condition.clone())
        directions = _unit_vectors(x) if probes is None else probes.to(x.dtype).transpose(0, 1)
        divergence = x.new_zeros(len(x))
        for direction in directions if velocity.requires_grad else ():  # a constant velocity has no divergence
            along = (velocity * direction).sum()
            (curved,) = torch.autograd.grad(along, x, retain_graph=True, materialize_grads=True)
            divergence = divergence + (curved * direction).flatten(1).sum(1)
        if probes is not None:
            divergence = divergence / len(directions)
    return velocity.detach(), divergence.detach()


def _unit_vectors(x: Tensor) -> Tensor:
    """(d, 1, …): one direction per dimension."""
    dimension = x[0].numel()
    return torch.eye(dimension, dtype=x.dtype, device=x.device).reshape(dimension, 1, *x.shape[1:])
