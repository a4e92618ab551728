"""Long runs: chains at one noise level near the data, where samples move and stay on the data.

A datum is given the level's noise, walks by MALA in the density of that level, which is stationary, and follows the
flow on to the lowest level, which takes the noise off again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import Walk, langevin
from vpfb_core.dynamics.solver import DEFAULT_SOLVER, Solver
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods import transport
from vpfb_core.methods.guidance import Guided

# Level of the chains: a tenth of the data's deviation, the least noise at which energies are reliable.
LEVEL = 0.1
LONGEST_BURN_IN = 200


@dataclass(frozen=True)
class LongRun:
    """Where chains ended, and how they went.

    Attributes:
        data: of unit variance, the noise taken off again, (N, …).
        acceptance: share of the proposals that were accepted after burn-in.
        energy: −log-density in nats, up to a constant, before the first and after each step, the mean, (steps + 1,).
        nfe: gradient evaluations, of the chain and the flow, (N,) int64.
    """

    data: Tensor
    acceptance: float
    energy: Tensor
    nfe: Tensor


def long_run(
    field: Any,
    data: Tensor,
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
    """Walk from data by `steps` steps of MALA at one noise level.

    The first fifth of the steps, at most 200, is burn-in: each chain finds its own step size, and keeps it.

    Args:
        field: with an energy and a flow.
        data: of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        guidance: as in `guidance.Guided`.
        level: the ratio of noise to data; the lowest of the field where that is higher.
        on_step: called after each step with the number of steps done.
    Raises:
        ConfigError: no steps, or a level that is not a positive number.
        SolverError: the energy is not finite at some start, or the flow did not reach its end.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps: a long run takes at least one step")
    if not 0 < level < math.inf:
        raise ConfigError(
            f"level {level} is not a positive number", hint="the level is the ratio of noise to data, such as 0.1"
        )
    lowest = field.levels.lowest
    level = max(level, lowest)
    epsilon = noise.normal(data.shape[1:], seed, range(first, first + len(data)), "long run start").to(data)
    x = noised(field, data, lowest, level, epsilon)
    _, deviation = field.scales(level)
    target = partial(Guided(field, guidance).energy_and_score, level=level, condition=condition)
    chain = partial(langevin, target, variance=deviation**2, seed=seed, first=first)
    burn_in = min(steps // 5, LONGEST_BURN_IN)
    walks: list[Walk] = []
    scale: float | Tensor = 1.0
    if burn_in:
        walks.append(chain(x, steps=burn_in, stream="long run burn-in", adapt=True, on_step=on_step))
        x, scale = walks[0].x, walks[0].step_scale
    later = None if on_step is None else lambda step: on_step(burn_in + step)
    walks.append(chain(x, steps=steps - burn_in, stream="long run", scale=scale, on_step=later))
    end, nfe = walks[-1].x, torch.full((len(data),), sum(walk.evaluations for walk in walks), device=data.device)
    if level > lowest:
        start = field.position(level)
        solution = transport.decode(field, end, condition, solver, guidance=guidance, start=start).require_success()
        end, nfe = solution.x, nfe + solution.nfe
    energy = torch.cat([walks[0].trace[:1], *(walk.trace[1:] for walk in walks)]).cpu()
    return LongRun(end, walks[-1].acceptance, energy, nfe)


def noised(field: Any, x: Tensor, level: float, higher: float, epsilon: Tensor) -> Tensor:
    """Points of one level, with as much noise added as a higher level has more.

    Args:
        x: points of the field at `level`, (N, …).
        epsilon: standard normal, like x.
    """
    (signal, deviation), (wanted_signal, wanted_deviation) = field.scales(level), field.scales(higher)
    share = wanted_signal / signal
    missing = wanted_deviation**2 - (share * deviation) ** 2
    return share * x + math.sqrt(max(0.0, missing)) * epsilon
