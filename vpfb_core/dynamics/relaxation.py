"""From noise to data by one energy: the gradient flow for unit time, then a Langevin chain.

The energy E of density ρ ∝ exp(−E) is taken in units of a variance v. The flow is dx/dt = v ∇log ρ, which is fast
compared with the chain and ends at t = 1 near the minima of E. From then on noise is added,
dx = v ∇log ρ dt + √(2v) dW, whose stationary density is ρ. Time t goes on from 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import langevin
from vpfb_core.dynamics.ode import Solution, Status
from vpfb_core.dynamics.solver import Solver

Target = Callable[..., tuple[Tensor, Tensor]]  # (x (N, …), *args) → energy (N,) and score, like x


@dataclass(frozen=True)
class Chain:
    """The chain after the flow.

    Attributes:
        steps: the number of steps; 0 for the flow alone.
        step: the length of a step in time.
        seed, stream, first: the noise of sample i depends only on (seed, stream, first + i).
        method: "ula" or "mala".
    """

    steps: int
    step: float
    seed: int = 0
    stream: str = "relaxation"
    first: int = 0
    method: str = "ula"


def relax(
    target: Target,
    x: Tensor,
    variance: float,
    solver: Solver,
    chain: Chain,
    *,
    args: tuple[Tensor, ...] = (),
    keep_path: bool = False,
) -> Solution:
    """Samples of exp(−E) from points of pure noise.

    Args:
        target: returns the energy and the score.
        x: points of pure noise, (N, …).
        variance: v, in the squared units of x.
        solver: the solver of the gradient flow.
        chain: the chain that follows the flow.
        args: tensors with N rows that the target receives as well, such as conditions.
        keep_path: whether the states of the flow and the last state of the chain are kept.
    Returns:
        A `Solution` whose t is the time at the end of the chain.
    Raises:
        SolverError: the energy is not finite at the beginning of the chain, or the chain became non-finite.
    """

    def velocity(x: Tensor, _t: Tensor, *args: Tensor) -> Tensor:
        return variance * target(x, *args)[1]

    with torch.no_grad():
        found = solver.solve(velocity, x, 0.0, 1.0, _evenly, args=args, keep_path=keep_path)
    if not chain.steps or bool((found.status != Status.SUCCESS).any()):
        return found
    dimension = x[0].numel() if len(x) else 1
    walk = langevin(
        lambda x: target(x, *args), found.x, variance, steps=chain.steps, seed=chain.seed, stream=chain.stream,
        first=chain.first, method=chain.method, scale=chain.step * dimension ** (1 / 3),
    )  # fmt: skip
    path = None if found.path is None else torch.cat([found.path, walk.x[None].cpu()])
    return replace(
        found, x=walk.x, t=found.t + chain.steps * chain.step, nfe=found.nfe + walk.evaluations,
        accepted=found.accepted + chain.steps, path=path,
    )  # fmt: skip


def _evenly(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * i / steps for i in range(steps + 1)]
