"""Inpainting: sampling the unknown pixels of an image given its known pixels.

At each noise level the known pixels are set to those of the image with new noise of that level. The unknown pixels then
move by MALA in their density given the known ones, which is the joint density as a function of the unknown pixels. It
would not be enough to replace the known pixels along the flow, since the flow fixes the coarse structure of an image
before it depends on them.

A field with an energy at one level only has no such ladder. There the whole image goes straight from noise to data, the
known pixels along the line to their values and the others by the gradient flow of the energy. The chain follows at the
end. If the density of the level is that of data with noise, the unknown pixels are then replaced by their means given
the end of the chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import STEP, STEP_COST, descend
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.guidance import Guided
from vpfb_core.settings import whole_number

LEVELS = 50
STEPS = 20  # steps of MALA per level
BURN_IN = 5  # steps per level before them, in which each chain adapts its step size
AT_ONE_LEVEL = 10  # the number of levels whose steps are taken at a single one


@dataclass(frozen=True)
class Inpainting:
    """The result of inpainting.

    Attributes:
        data: data of unit variance with the known pixels unchanged, (N, …).
        acceptance: the share of accepted proposals after the burn-in at each level with a chain, (levels,).
        energy: the mean energy after the last step of each of these levels, in nats up to a constant of the level,
            (levels,).
        nfe: gradient evaluations per sample; a guided gradient takes two.
        solver: the name of the solver of the flow.
    """

    data: Tensor
    acceptance: Tensor
    energy: Tensor
    nfe: int
    solver: str


def inpaint(
    field: Any,
    data: Tensor,
    known: Tensor,
    condition: Tensor | None = None,
    guidance: float | None = None,
    *,
    seed: int,
    first: int = 0,
    levels: int = LEVELS,
    steps: int = STEPS,
    on_level: Callable[[int], None] | None = None,
) -> Inpainting:
    """Sample the unknown pixels of each datum given the known ones.

    Args:
        field: a field with an energy, and with a flow if it has an energy at several noise levels.
        data: data of unit variance, (N, …). The values of unknown pixels are ignored.
        known: True where a pixel is known, bool, broadcastable to data.
        condition: class indices, int64 (N, G), or None.
        guidance: the guidance weight (see `guidance.Guided`); None uses none.
        seed, first: the random numbers of sample i depend only on (seed, first + i).
        levels: the number of noise levels, each with one step of the flow and then `steps` steps of MALA. Below the
            lowest level at which the field allows chains there is only the flow.
        steps: the number of steps of MALA per level.
        on_level: called after each level with the number of levels done.
    Raises:
        ConfigError: `levels` is below 2, or `steps` is below 1.
        SolverError: a sample became non-finite.
    """
    if whole_number("levels", levels) < 2 or whole_number("steps", steps) < 1:
        raise ConfigError(f"levels = {levels}, steps = {steps}: at least 2 levels and 1 step are needed")
    known = known.to(data.device).expand_as(data)
    if field.levels.single:
        guided = Guided(field, guidance)
        return _at_one_level(field, guided, data, known, condition, seed, first, levels, steps, on_level)
    indices, guided = range(first, first + len(data)), Guided(field, guidance)
    scale: float | Tensor = 1.0
    acceptance, energy = [], []
    evaluations = 0

    def settle(x: Tensor, level: float, index: int) -> Tensor:
        nonlocal evaluations
        fresh = noise.normal(data.shape[1:], seed, indices, f"known pixels {index}").to(data)
        x = torch.where(known, field.at_level(data, level, fresh), x)
        if field.levels.allow_chains(level):
            x = walk(x, level, index)
        evaluations += STEP_COST
        if on_level is not None:
            on_level(index + 1)
        return x

    def walk(x: Tensor, level: float, index: int) -> Tensor:
        nonlocal scale, evaluations
        target = partial(guided.energy_and_score, level=level, condition=condition)
        for count, stream, adapt in ((BURN_IN, "burn-in", True), (steps, "chain", False)):
            walked = langevin(
                target, x, field.chain_variance(level), steps=count, seed=seed, first=first,
                stream=f"inpainting {stream} {index}", scale=scale, adapt=adapt, mask=~known,
            )  # fmt: skip
            x, scale = walked.x, walked.step_scale
            evaluations += walked.evaluations
        acceptance.append(walked.acceptance)
        energy.append(walked.trace[-1].cpu())
        return x

    codes = noise.normal(data.shape[1:], seed, indices).to(data)
    ladder = [level for level in field.levels.ladder(levels) if level < field.levels.highest]

    def velocity(x: Tensor, s: float) -> Tensor:
        return guided.velocity(x, x.new_full((len(x),), s), condition)

    x = descend(velocity, codes, field.span[0], ladder, field.position, settle)
    evaluations *= guided.cost(condition)
    return Inpainting(torch.where(known, data, x), torch.tensor(acceptance), torch.stack(energy), evaluations, STEP)


def _at_one_level(
    field: Any,
    guided: Guided,
    data: Tensor,
    known: Tensor,
    condition: Tensor | None,
    seed: int,
    first: int,
    flow_steps: int,
    steps: int,
    on_step: Callable[[int], None] | None,
) -> Inpainting:
    """`inpaint` with an energy at one level: `flow_steps` steps of Euler's method from noise, and a chain."""
    level, variance = field.levels.lowest, field.chain_variance(field.levels.lowest)
    target = partial(guided.energy_and_score, level=level, condition=condition)
    codes = noise.normal(data.shape[1:], seed, range(first, first + len(data))).to(data)
    start = field.at_level(torch.zeros_like(data), math.inf, codes)
    x = start
    for i in range(flow_steps):
        t = i / flow_steps
        x = torch.where(known, (1 - t) * start + t * data, x)
        _, score = target(x)
        x = x + variance / flow_steps * score
        if on_step is not None:
            on_step(i + 1)
    x = torch.where(known, data, x)
    scale: float | Tensor = 0.1
    evaluations = flow_steps
    for count, stream, adapt in ((AT_ONE_LEVEL * BURN_IN, "burn-in", True), (AT_ONE_LEVEL * steps, "chain", False)):
        walked = langevin(
            target, x, variance, steps=count, seed=seed, first=first, stream=f"inpainting {stream}", scale=scale,
            adapt=adapt, mask=~known,
        )  # fmt: skip
        x, scale = walked.x, walked.step_scale
        evaluations += walked.evaluations
    clean, more = field.denoised(x, target)
    filled, evaluations = torch.where(known, data, clean), (evaluations + more) * guided.cost(condition)
    return Inpainting(filled, torch.tensor([walked.acceptance]), walked.trace[-1:].cpu(), evaluations, "euler")
