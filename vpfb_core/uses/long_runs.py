"""Long runs: Markov chains at one low noise level, in which samples change but remain like the data.

Noise of the level is added to a datum. The datum moves by MALA, for which the density of that level is stationary. The
flow to the lowest level then removes the noise. A field with an energy at one level only has no such flow; if the
density of this level is that of data with noise, the end is the mean of the data given the end of the chain.
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
from vpfb_core.settings import number

# The default noise level of the chains, the lowest level at which energies are reliable.
LEVEL = 0.1
LONGEST_BURN_IN = 200


@dataclass(frozen=True)
class LongRun:
    """The result of a long run.

    Attributes:
        data: the final data of unit variance, without the noise, (N, …).
        acceptance: the share of accepted proposals after the burn-in.
        energy: the mean energy before the first step and after each step, in nats up to a constant, (steps + 1,).
        nfe: gradient evaluations of the chain and of the removal of the noise per sample, (N,) int64; a guided
            gradient takes two.
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
    """Run MALA chains from data at one noise level, and remove the noise.

    The first fifth of the steps, at most 200, is the burn-in, in which each chain adapts its step size.

    Args:
        field: a field with an energy, and with a flow if it has an energy at several noise levels.
        data: data of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        guidance: the guidance weight (see `guidance.Guided`); None uses none.
        steps: the number of steps of MALA.
        seed, first: the random numbers of chain i depend only on (seed, first + i).
        level: the noise level, or the nearest level at which the field allows chains.
        solver: the solver of the flow.
        on_step: called after each step with the number of steps done.
    Raises:
        ConfigError: `steps` is below 1, or the level is not a positive number.
        SolverError: the energy of an initial state is not finite, or the flow did not reach its end.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps: a long run takes at least one step")
    level = number("level", level)
    if not 0 < level < math.inf:
        raise ConfigError(
            f"level {level} is not a positive number", hint="the level is the ratio of noise to data, such as 0.1"
        )
    lowest = field.levels.lowest
    level = min(max(level, lowest, field.levels.lowest_for_chains), field.levels.highest)
    epsilon = noise.normal(data.shape[1:], seed, range(first, first + len(data)), "long run start").to(data)
    x = noised(field, data, lowest, level, epsilon) if level > lowest else data + field.blur * epsilon
    guided = Guided(field, guidance)
    target = partial(guided.energy_and_score, level=level, condition=condition)
    chain = partial(langevin, target, variance=field.chain_variance(level), seed=seed, first=first)
    burn_in = min(steps // 5, LONGEST_BURN_IN)
    walks: list[Walk] = []
    scale: float | Tensor = 1.0
    if burn_in:
        walks.append(chain(x, steps=burn_in, stream="long run burn-in", adapt=True, on_step=on_step))
        x, scale = walks[0].x, walks[0].step_scale
    later = None if on_step is None else lambda step: on_step(burn_in + step)
    walks.append(chain(x, steps=steps - burn_in, stream="long run", scale=scale, on_step=later))
    cost = guided.cost(condition)
    end, nfe = walks[-1].x, torch.full((len(data),), cost * sum(walk.evaluations for walk in walks), device=data.device)
    if level > lowest:
        start = field.position(level)
        solution = transport.decode(field, end, condition, solver, guidance=guidance, start=start).require_success()
        end, nfe = solution.x, nfe + solution.nfe
    else:
        end, evaluations = field.denoised(end, target)
        nfe += cost * evaluations
    energy = torch.cat([walks[0].trace[:1], *(walk.trace[1:] for walk in walks)]).cpu()
    return LongRun(end, walks[-1].acceptance, energy, nfe)


def noised(field: Any, x: Tensor, level: float, higher: float, epsilon: Tensor) -> Tensor:
    """Points of a higher level, from points of a lower one and additional noise, like x.

    Args:
        field: the field.
        x: points of the field at `level`, (N, …).
        level: the noise level of x.
        higher: the noise level of the result.
        epsilon: standard normal noise, like x.
    """
    (signal, deviation), (wanted_signal, wanted_deviation) = field.scales(level), field.scales(higher)
    share = wanted_signal / signal
    missing = wanted_deviation**2 - (share * deviation) ** 2
    return share * x + math.sqrt(max(0.0, missing)) * epsilon
