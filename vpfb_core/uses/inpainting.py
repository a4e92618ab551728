"""Inpainting: pictures whose known pixels are given, the others drawn from the model.

At each level of the arc the known pixels are those of the picture with fresh noise of that level on them, and the free
ones walk by MALA in their density given the known ones, which is the joint density as a function of them. Replacing the
known pixels along the flow alone would not be sound: the flow does not see them early enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import langevin
from vpfb_core.dynamics.solvers import solve
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.guidance import arc_density, arc_velocity
from vpfb_core.methods.vpfb.potential import Potential

LEVELS = 50
STEPS = 20  # of MALA at a level
BURN_IN = 5  # steps before them, in which each chain finds its step size
FIRST_LEVEL = -4.0  # log tan φ: before it there is next to nothing but noise
HEUN = 2  # evaluations of a step


@dataclass(frozen=True)
class Inpainting:
    """Filled-in pictures, and how the chains went.

    Attributes:
        z: data in units of its standard deviation, the known pixels as they were given, (N, …).
        acceptance: share of the proposals taken after burn-in, at each level, (levels,).
        energy: −log-density in nats, up to a constant of each level, after its last step, the mean, (levels,).
        nfe: evaluations of ∇N a picture.
    """

    z: Tensor
    acceptance: Tensor
    energy: Tensor
    nfe: int


def inpaint(
    potential: Potential,
    z: Tensor,
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
    """Draw the free pixels of each z given the known ones. Sample i draws by (seed, first + i) alone.

    Args:
        z: data in units of its standard deviation, (N, …); what the free pixels hold is not looked at.
        known: True where a pixel is given, bool, broadcast to z.
        condition: class indices, int64 (N, G), or None.
        guidance: as in `guidance.guided_arc`.
        levels: from log tan φ = −4 to the floor, each with a step of the flow and then `steps` steps of MALA.
        on_level: called after each level with the number of levels done.
    Raises:
        ConfigError: no levels or no steps.
        SolverError: some sample left the finite numbers.
    """
    if levels < 2 or steps < 1:
        raise ConfigError(f"levels = {levels}, steps = {steps}: at least 2 levels and 1 step are needed")
    known = known.to(z.device).expand_as(z)
    indices = range(first, first + len(z))
    target, velocity = arc_density(potential, condition, guidance), arc_velocity(potential, guidance)
    args = () if condition is None else (condition,)
    before, *angles = annealing(potential.angle_range, levels)
    u = noise.normal(z.shape[1:], seed, indices).to(z)
    scale: float | Tensor = 1.0
    acceptance, energy = [], []
    evaluations = 0
    for level, angle in enumerate(angles):
        with torch.no_grad():
            u = solve(velocity, u, method="heun", args=args, grid=[before, angle]).require_success().x
        fresh = noise.normal(z.shape[1:], seed, indices, f"known pixels {level}").to(z)
        u = torch.where(known, math.sin(angle) * z + math.cos(angle) * fresh, u)
        there = z.new_full((len(z),), angle)
        for count, stream, adapt in ((BURN_IN, "burn-in", True), (steps, "chain", False)):
            walk = langevin(
                target, u, there, steps=count, seed=seed, first=first, stream=f"inpainting {stream} {level}",
                scale=scale, adapt=adapt, mask=~known,
            )  # fmt: skip
            u, scale = walk.u, walk.step_scale
            evaluations += walk.evaluations
        evaluations += HEUN
        acceptance.append(walk.acceptance)
        energy.append(-walk.trace[-1].cpu())
        before = angle
        if on_level is not None:
            on_level(level + 1)
    return Inpainting(torch.where(known, z, u), torch.tensor(acceptance), torch.stack(energy), evaluations)


def annealing(angle_range: tuple[float, float], levels: int) -> list[float]:
    """φ(0) and then the angles of `levels` levels, uniform in log tan φ from −4 (or φ(0), if later) to the floor."""
    start, floor = angle_range
    last = math.log(math.tan(floor))
    low = max(FIRST_LEVEL, math.log(math.tan(start)) if start > 0 else -math.inf)
    spaced = [low + (last - low) * i / (levels - 1) for i in range(levels)]
    angles = [math.atan(math.exp(value)) for value in spaced[:-1]] + [floor]
    return [start, *(angle for angle in angles if angle > start)]
