"""The likelihood of a flow: log p(x, s) = log N(x₀; 0, I) − ∫ ∇·v ds along the encoding of x, where v is the velocity.

This is the instantaneous change of variables (Chen et al. 2018, arXiv 1806.07366). The divergence is exact in few
dimensions and uses Hutchinson's estimator in many (Grathwohl et al. 2019, arXiv 1810.01367). The result is the
normalised density of the samples of the flow, which needs no calibration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vpfb_core.dynamics.solver import Solver
from vpfb_core.machine.precision import true_float32
from vpfb_core.methods.fields import Transports


@dataclass(frozen=True)
class Likelihood:
    """The log-densities of a flow along the encodings of N points.

    Attributes:
        log_density: the log-density at each requested position, in nats and in the coordinates of the field,
            (positions, N), in the dtype of x.
        x: the encodings at these positions, (positions, N, …).
    """

    log_density: Tensor
    x: Tensor


def log_likelihood(
    field: Transports,
    x: Tensor,
    positions: Sequence[float],
    condition: Tensor | None = None,
    *,
    probes: Tensor | None = None,
    solver: Solver | None = None,
) -> Likelihood:
    """The log-density of the flow at x and at later points of its encoding.

    Args:
        field: a field with a flow.
        x: points of the field at the first position, float32 or float64, (N, …).
        positions: the positions at which the density is computed, falling towards the prior.
        condition: class indices, int64 (N, G), or None.
        probes: random signs ±1 for Hutchinson's estimator, (N, probes, …). They are fixed along the path, so that the
            estimate is smooth. None computes the exact trace with d backward passes per evaluation.
        solver: the ODE solver; None is dopri5 with the default tolerance.
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
    passed = [state]
    for start, end in pairwise([*positions, field.span[0]]):
        if end < start:
            with torch.no_grad(), true_float32(x.device):
                solution = solver.solve(slope, state, start, end, field.grid, args=args, integrals=1).require_success()
            state = solution.x
        passed.append(state)
    codes = state[:, :-1]
    prior = -0.5 * (codes.square().sum(1) + dimension * math.log(2 * math.pi))
    path = torch.stack(passed[:-1])
    return Likelihood(
        log_density=prior + (state[:, -1] - path[:, :, -1]),
        x=path[:, :, :-1].reshape(len(positions), *x.shape),
    )


def velocity_and_divergence(
    field: Transports, x: Tensor, s: Tensor, condition: Tensor | None = None, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The velocity, like x, and its divergence, (N,), both detached.

    The divergence is exact, or the mean of wᵀ (∂velocity/∂x) w over the probes w. Arguments are those of
    `log_likelihood`, and the positions s (N,).
    """
    # The tensors are copied, since tensors that were created under torch.inference_mode cannot be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        x, s = x.detach().clone().requires_grad_(), s.detach().clone()
        velocity = field.velocity(x, s, None if condition is None else condition.clone())
        directions = _unit_vectors(x) if probes is None else probes.clone().to(x.dtype).transpose(0, 1)
        divergence = x.new_zeros(len(x))
        for direction in directions if velocity.requires_grad else ():  # the divergence of a constant velocity is zero
            along = (velocity * direction).sum()
            (curved,) = torch.autograd.grad(along, x, retain_graph=True, materialize_grads=True)
            divergence = divergence + (curved * direction).flatten(1).sum(1)
        if probes is not None:
            divergence = divergence / len(directions)
    return velocity.detach(), divergence.detach()


def _unit_vectors(x: Tensor) -> Tensor:
    """The unit vector of each dimension, (d, 1, …)."""
    dimension = x[0].numel()
    return torch.eye(dimension, dtype=x.dtype, device=x.device).reshape(dimension, 1, *x.shape[1:])
