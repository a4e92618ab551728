"""The likelihood by the flow: log p(u, φ) = log N(u₀; 0, I) − ∫ Δ_u N dφ along the encoding of u.

The instantaneous change of variables (Chen et al. 2018, arXiv 1806.07366) with the trace exact in few dimensions and by
Hutchinson's estimator in many (Grathwohl et al. 2019, arXiv 1810.01367). It is the normalised density of what the flow
draws, whatever N is: nothing in it has to be calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vpfb_core.dynamics.solvers import RightHandSide, Solution, solve
from vpfb_core.methods.transport import Solver
from vpfb_core.methods.vpfb.potential import Potential

EXACT_TRACE_DIMENSION = 16  # up to here the trace costs less than the probes that would replace it


@dataclass(frozen=True)
class Likelihood:
    """Densities along the encodings of N points.

    Attributes:
        log_density: of the flow at each angle asked for, in the coordinates u, nats, (angles, N), in the dtype of u.
        u: the encodings at these angles, (angles, N, …).
        codes: prior points, (N, …).
        nfe: evaluations of ∇N and its divergence a point, (N,) int64.
    """

    log_density: Tensor
    u: Tensor
    codes: Tensor
    nfe: Tensor


def log_likelihood(
    potential: Potential,
    u: Tensor,
    angles: Sequence[float],
    condition: Tensor | None = None,
    *,
    probes: Tensor | None = None,
    solver: Solver | None = None,
) -> Likelihood:
    """The flow's log-density at u, and at the points that its encoding passes.

    Args:
        u: points of the arc at the first angle, float32 or float64, (N, …).
        angles: where the density is asked for, falling towards the prior.
        condition: class indices, int64 (N, G), or None.
        probes: ±1, (N, probes, …), for Hutchinson's estimate; None takes the exact trace, at the cost of d second
            differentiations. Either way the divergence is a smooth function along the path.
        solver: dopri5 at the default tolerance if None.
    Raises:
        SolverError: the encoding of some point did not reach the prior.
    """
    dimension = u[0].numel()
    solver = solver or Solver.choose("dopri5")
    args = tuple(arg for arg in (probes, condition) if arg is not None)

    def slope(state: Tensor, angle: Tensor, *args: Tensor) -> Tensor:
        rows = iter(args)
        some_probes = None if probes is None else next(rows)
        velocity, divergence = velocity_and_divergence(
            potential, state[:, :-1].reshape(-1, *u.shape[1:]), angle, next(rows, None), some_probes
        )
        return torch.cat([velocity.flatten(1), divergence[:, None]], dim=1)

    state = torch.cat([u.flatten(1), u.new_zeros(len(u), 1)], dim=1)
    nfe = torch.zeros(len(u), dtype=torch.int64, device=u.device)
    passed = [state]
    for start, end in pairwise([*angles, potential.angle_range[0]]):
        if end < start:
            solution = _solve(slope, state, args, start, end, solver)
            state, nfe = solution.x, nfe + solution.nfe
        passed.append(state)
    codes = state[:, :-1]
    prior = -0.5 * (codes.square().sum(1) + dimension * math.log(2 * math.pi))
    path = torch.stack(passed[:-1])
    return Likelihood(
        log_density=prior + (state[:, -1] - path[:, :, -1]),
        u=path[:, :, :-1].reshape(len(angles), *u.shape),
        codes=codes.reshape(u.shape),
        nfe=nfe,
    )


def velocity_and_divergence(
    potential: Potential, u: Tensor, angle: Tensor, condition: Tensor | None = None, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """∇_u N, shaped like u, and Δ_u N, (N,): exact, or Σ vᵀ (∂∇N/∂u) v over the probes v divided by their number.

    Keeps no graph. Arguments as in `log_likelihood`.
    """
    # Copies, because tensors made under torch.inference_mode cannot be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        u, angle = u.detach().clone().requires_grad_(), angle.detach().clone()
        gradient = potential.arc(u, angle, None if condition is None else condition.clone()).gradient
        directions = _unit_vectors(u) if probes is None else probes.to(u.dtype).transpose(0, 1)
        divergence = u.new_zeros(len(u))
        for direction in directions if gradient.requires_grad else ():  # or N is linear in u
            along = (gradient * direction).sum()
            (curved,) = torch.autograd.grad(along, u, retain_graph=True, materialize_grads=True)
            divergence = divergence + (curved * direction).flatten(1).sum(1)
        if probes is not None:
            divergence = divergence / len(directions)
    return gradient.detach(), divergence.detach()


def _unit_vectors(u: Tensor) -> Tensor:
    """(d, 1, …): one direction a dimension."""
    dimension = u[0].numel()
    return torch.eye(dimension, dtype=u.dtype, device=u.device).reshape(dimension, 1, *u.shape[1:])


def _solve(
    slope: RightHandSide, state: Tensor, args: tuple[Tensor, ...], start: float, end: float, solver: Solver
) -> Solution:
    with torch.no_grad():
        if (layout := solver.layout(start, end)) is not None:
            return solve(slope, state, method=layout.method, args=args, grid=layout.grid).require_success()
        return solve(
            slope, state, start, end, solver.method, args=args, rtol=solver.rtol, atol=solver.atol
        ).require_success()
