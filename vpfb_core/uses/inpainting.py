"""Inpainting: pictures whose known pixels are given, the others drawn from the model.

At each noise level the known pixels are those of the picture with fresh noise of that level on them, and the free ones
walk by MALA in their density given the known ones, which is the joint density as a function of them. Replacing the
known pixels along the flow alone would not be sound: the flow does not see them early enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import STEP_COST, descend
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.guidance import Guided

LEVELS = 50
STEPS = 20  # of MALA at each level
BURN_IN = 5  # steps before them, in which each chain finds its step size


@dataclass(frozen=True)
class Inpainting:
    """Filled-in pictures, and how the chains went.

    Attributes:
        data: of unit variance, the known pixels as they were given, (N, …).
        acceptance: share of the proposals that were accepted after burn-in, at each level, (levels,).
        energy: −log-density in nats, up to a constant of each level, after its last step, the mean, (levels,).
        nfe: gradient evaluations per picture.
    """

    data: Tensor
    acceptance: Tensor
    energy: Tensor
    nfe: int


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
    """Draw the free pixels of each datum given the known ones. Sample i draws by (seed, first + i) alone.

    Args:
        field: with an energy and a flow.
        data: of unit variance, (N, …); what the free pixels hold is not looked at.
        known: True where a pixel is given, bool, broadcast to data.
        condition: class indices, int64 (N, G), or None.
        guidance: as in `guidance.Guided`.
        levels: of the ladder from noise to data, each with a step of the flow and then `steps` steps of MALA.
        on_level: called after each level with the number of levels done.
    Raises:
        ConfigError: fewer than two levels, or no steps.
        SolverError: some sample left the finite numbers.
    """
    if levels < 2 or steps < 1:
        raise ConfigError(f"levels = {levels}, steps = {steps}: at least 2 levels and 1 step are needed")
    known = known.to(data.device).expand_as(data)
    indices, guided = range(first, first + len(data)), Guided(field, guidance)
    scale: float | Tensor = 1.0
    acceptance, energy = [], []
    evaluations = 0

    def settle(x: Tensor, level: float, index: int) -> Tensor:
        nonlocal scale, evaluations
        fresh = noise.normal(data.shape[1:], seed, indices, f"known pixels {index}").to(data)
        x = torch.where(known, field.at_level(data, level, fresh), x)
        target = partial(guided.energy_and_score, level=level, condition=condition)
        _, deviation = field.scales(level)
        for count, stream, adapt in ((BURN_IN, "burn-in", True), (steps, "chain", False)):
            walk = langevin(
                target, x, deviation**2, steps=count, seed=seed, first=first,
                stream=f"inpainting {stream} {index}", scale=scale, adapt=adapt, mask=~known,
            )  # fmt: skip
            x, scale = walk.x, walk.step_scale
            evaluations += walk.evaluations
        evaluations += STEP_COST
        acceptance.append(walk.acceptance)
        energy.append(walk.trace[-1].cpu())
        if on_level is not None:
            on_level(index + 1)
        return x

    codes = noise.normal(data.shape[1:], seed, indices).to(data)
    ladder = [level for level in field.levels.ladder(levels) if level < field.levels.highest]

    def velocity(x: Tensor, s: float) -> Tensor:
        return guided.velocity(x, x.new_full((len(x),), s), condition)

    x = descend(velocity, codes, field.span[0], ladder, field.position, settle)
    return Inpainting(torch.where(known, data, x), torch.tensor(acceptance), torch.stack(energy), evaluations)
