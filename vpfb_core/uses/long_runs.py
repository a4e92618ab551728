"""Long runs: chains at one level near the data, where samples move and stay on the data.

A data point is given the level's noise, walks by MALA in the density of that level, which is stationary, and follows
the flow on to the floor, which takes the noise off again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import Walk, langevin
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.guidance import arc_density
from vpfb_core.methods.transport import DEFAULT_SOLVER, Solver, decode
from vpfb_core.methods.vpfb.potential import Potential

# cot φ of the chains: a tenth of the data's deviation, the least noise at which energies are reliable.
LEVEL = 0.1
LONGEST_BURN_IN = 200


@dataclass(frozen=True)
class LongRun:
    """Where chains ended, and how they went.

    Attributes:
        z: data in units of its standard deviation, the noise taken off again, (N, …).
        acceptance: share of the proposals taken after burn-in.
        energy: −log-density in nats, up to a constant, before the first and after each step, the mean, (steps + 1,).
        nfe: evaluations of ∇N, of the chain and the flow, (N,) int64.
    """

    z: Tensor
    acceptance: float
    energy: Tensor
    nfe: Tensor


def long_run(
    potential: Potential,
    z: Tensor,
    condition: Tensor | None = None,
    guidance: float | None = None,
    *,
    steps: int,
    seed: int,
    first: int = 0,
    level: float = LEVEL,
    solver: Solver = DEFAULT_SOLVER,
    on_step: Callable[[int], None] | None = None,
) -> LongRun:
    """Walk from data points by `steps` steps of MALA at cot φ = level.

    The first fifth of the steps, at most 200, is burn-in: each chain finds its own step size, and keeps it.

    Args:
        z: data in units of its standard deviation, (N, …).
        condition: class indices, int64 (N, G), or None.
        guidance: as in `guidance.guided_arc`.
        level: the ratio of noise to data; the floor of the schedule where that is higher.
    Raises:
        ConfigError: no steps, or a level that is not a positive number.
        SolverError: the energy is not finite at some start, or the flow did not reach the floor.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps: a long run takes at least one")
    if not 0 < level < math.inf:
        raise ConfigError(f"level {level} is not a positive number", hint="the level is cot φ, the noise-to-data ratio")
    floor = potential.angle_range[1]
    angle = min(math.atan(1 / level), floor)
    start = noise.normal(z.shape[1:], seed, range(first, first + len(z)), "long run start").to(z)
    u = at_level(z, floor, angle, start)
    target, angles = arc_density(potential, condition, guidance), z.new_full((len(z),), angle)
    chain = partial(langevin, target, angle=angles, seed=seed, first=first)
    burn_in = min(steps // 5, LONGEST_BURN_IN)
    walks: list[Walk] = []
    scale: float | Tensor = 1.0
    if burn_in:
        walks.append(chain(u, steps=burn_in, stream="long run burn-in", adapt=True, on_step=on_step))
        u, scale = walks[0].u, walks[0].step_scale
    later = None if on_step is None else lambda step: on_step(burn_in + step)
    walks.append(chain(u, steps=steps - burn_in, stream="long run", scale=scale, on_step=later))
    z, nfe = walks[-1].u, torch.full((len(z),), sum(walk.evaluations for walk in walks), device=z.device)
    if angle < floor:
        solution = decode(potential, z, condition, solver, guidance=guidance, start=angle).require_success()
        z, nfe = solution.x, nfe + solution.nfe
    energy = -torch.cat([walks[0].trace[:1], *(walk.trace[1:] for walk in walks)]).cpu()
    return LongRun(z, walks[-1].acceptance, energy, nfe)


def at_level(z: Tensor, floor: float, angle: float, epsilon: Tensor) -> Tensor:
    """Data with the floor's little noise, brought back to the angle φ of the arc by as much noise as is missing there.

    Args:
        z: points of the arc at the angle `floor`, (N, …).
        epsilon: standard normal, like z.
    """
    share = math.sin(angle) / math.sin(floor)
    missing = math.cos(angle) ** 2 - (share * math.cos(floor)) ** 2
    return share * z + math.sqrt(max(0.0, missing)) * epsilon
