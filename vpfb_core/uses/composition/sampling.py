"""Samples of a composed density: the composed flow, with Markov chains at every level that correct its bias.

Levels uniform in ℓ = log tan φ, from −4 to the floor; to each one Heun step of the flow, then a few steps of MALA (or
ULA) at it, to which the composed energy is exact. Chains at high noise only would change nothing: at every level the
flow falls behind the product a little.
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
from vpfb_core.uses.composition.energy import Composition

METHODS = ("none", "ula", "mala")
STEPS = 4
LEVELS = 50
FIRST_LEVEL = -4.0  # ℓ of the first level: below it next to nothing of the data is left
BATCH = 64  # samples at once; each counts once for every term

# The step is tuned by MALA on chains that are thrown away, so that the chains that count keep theirs fixed, which makes
# them exact, and sample i depends on the seed and i alone.
PILOTS = 16
ULA_SHARE = 0.5  # of MALA's step scale: without the Metropolis test, the bias grows with the step

_HEUN_COST = 2

Settle = Callable[[Tensor, Tensor, int], Tensor]  # (u, φ (N,), index of the level) → u


@dataclass(frozen=True)
class Drawn:
    """What was drawn, on the CPU.

    Attributes:
        images: float32 (n, C, H, W) in [0, 1].
        z: in units of the data's standard deviation, like images.
        acceptance: share of the proposals taken at each level, from noise to data; None without MALA.
        nfe: gradients of N that a sample took, of every term; without the pilots.
    """

    images: Tensor
    z: Tensor
    acceptance: tuple[float, ...] | None
    nfe: int


def sample(
    composition: Composition,
    n: int,
    seed: int = 0,
    *,
    first: int = 0,
    mcmc: str = "mala",
    mcmc_steps: int | None = None,
    levels: int = LEVELS,
    batch_size: int = BATCH,
    on_level: Callable[[float], None] | None = None,
) -> Drawn:
    """Draw n images of a composed density. Image i depends on (seed, i), whatever the batch size.

    Args:
        first: index of the first image, so that many can be drawn in parts.
        mcmc: chains at each level: "mala", exact; "ula", biased a little by its steps; "none", the composed flow alone,
            biased for & and ~ and exact for |.
        mcmc_steps: of the chains at each level, `STEPS` unless said otherwise.
        on_level: hears how much of the work is done, in [0, 1].
    Raises:
        ConfigError: settings that do not exist or contradict each other.
        SolverError: the flow or the chains left the finite numbers.
    """
    if mcmc not in METHODS:
        raise ConfigError(f"unknown mcmc {mcmc!r}", hint=f"there are: {', '.join(METHODS)}")
    if mcmc == "none" and mcmc_steps is not None:
        raise ConfigError(f"mcmc_steps = {mcmc_steps} without mcmc", hint="there are: mala, ula")
    if mcmc == "none" and not composition.has_flow:
        raise ConfigError(
            "unconditional models have no flow of their product, so mcmc = 'none' draws something else",
            hint="mala draws from the product itself",
        )
    steps = STEPS if mcmc_steps is None else mcmc_steps
    if min(n, steps, batch_size) < 1 or levels < 2:
        raise ConfigError(
            f"n = {n}, mcmc_steps = {steps}, batch_size = {batch_size}, levels = {levels}",
            hint="at least 1 each, and 2 levels",
        )
    angles = level_angles(composition.angle_range, levels)
    batches = [range(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    progress = _Progress(on_level, levels * (PILOTS * (mcmc != "none") + n))
    scales = [] if mcmc == "none" else _tune(composition, angles, seed, max(steps, STEPS), progress)
    if mcmc == "ula":
        scales = [ULA_SHARE * scale for scale in scales]

    taken, drawn = [0.0] * levels, []
    for batch in batches:
        indices = range(first + batch.start, first + batch.stop)
        codes = noise.normal(composition.model.shape, seed, indices)

        def walk(u: Tensor, angle: Tensor, level: int, first: int = indices.start) -> Tensor:
            walked = langevin(
                composition.target, u, angle, steps=steps, seed=seed, stream=f"composition {level}", first=first,
                method=mcmc, scale=scales[level],
            )  # fmt: skip
            taken[level] += walked.acceptance * len(u) / n
            return walked.u

        drawn.append(_carry(composition, codes, angles, _stay if mcmc == "none" else walk, progress).cpu())
    z = torch.cat(drawn)
    moves = levels - (angles[0] <= composition.angle_range[0])  # the first level may be where the flow begins
    evaluations = _HEUN_COST * moves + (0 if mcmc == "none" else levels * (steps + 1))
    return Drawn(
        images=composition.model.statistics.to_images(z),
        z=z,
        acceptance=tuple(taken) if mcmc == "mala" else None,
        nfe=evaluations * len(composition.terms),
    )


def level_angles(angle_range: tuple[float, float], count: int) -> list[float]:
    """φ of the levels, uniform in log tan φ; the last one is the floor."""
    start, end = angle_range
    low, high = FIRST_LEVEL, math.log(math.tan(end))
    if math.tan(start) > math.exp(low):
        low = math.log(math.tan(start))
    return [math.atan(math.exp(low + (high - low) * i / (count - 1))) for i in range(count - 1)] + [end]


class _Progress:
    """How much is done, in samples times levels."""

    def __init__(self, on_level: Callable[[float], None] | None, total: int) -> None:
        self._on_level, self._total, self._done = on_level, total, 0

    def add(self, samples: int) -> None:
        self._done += samples
        if self._on_level is not None:
            self._on_level(self._done / self._total)


def _carry(composition: Composition, codes: Tensor, angles: list[float], settle: Settle, progress: _Progress) -> Tensor:
    """Prior points (N, …) through all levels to the floor: to each one Heun step, and there `settle`."""
    u = codes.to(composition.model.device)
    before = composition.angle_range[0]
    with torch.no_grad():
        for level, angle in enumerate(angles):
            if angle > before:
                u = solve(composition.velocity, u, method="heun", grid=[before, angle]).require_success().x
            u = settle(u, u.new_full((len(u),), angle), level)
            before = angle
            progress.add(len(u))
    return u


def _stay(u: Tensor, angle: Tensor, level: int) -> Tensor:  # noqa: ARG001
    return u


def _tune(composition: Composition, angles: list[float], seed: int, steps: int, progress: _Progress) -> list[float]:
    """The step scale c of MALA at each level: the pilots' geometric mean after their steps there, and where the next
    level begins."""  # fmt: skip
    scales = [1.0]

    def walk(u: Tensor, angle: Tensor, level: int) -> Tensor:
        walked = langevin(
            composition.target, u, angle, steps=steps, seed=seed, stream=f"composition pilot {level}",
            scale=scales[-1], adapt=True,
        )  # fmt: skip
        scales.append(float(walked.step_scale.log().mean().exp()))
        return walked.u

    codes = noise.normal(composition.model.shape, seed, range(PILOTS), "composition pilots")
    _carry(composition, codes, angles, walk, progress)
    return scales[1:]
