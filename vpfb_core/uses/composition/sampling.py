"""Samples of a composed density, by the composed flow and Markov chains that correct its bias at every noise level.

Each level of a ladder is reached by one step of Heun's method along the flow. A few steps of MALA or ULA follow, for
which the composed energy is exact. The chains are needed at every level, since the flow has a bias at every level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import STEP_COST, Settle, descend
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.names import MCMC
from vpfb_core.uses.composition.energy import Composition

STEPS = 4
LEVELS = 50
BATCH = 64  # the number of samples that are computed at once, each once per term

# The step scales are tuned on pilot chains that are discarded. The chains of the samples then have fixed scales, which
# keeps MALA exact, and sample i depends only on the seed and i.
PILOTS = 16
ULA_SHARE = 0.5  # the step scale of ULA relative to MALA's, since its bias grows with the step


@dataclass(frozen=True)
class Composed:
    """Samples of a composed density, on the CPU.

    Attributes:
        images: float32 (n, C, H, W) in [0, 1].
        data: the samples as data of unit variance, like images.
        acceptance: the share of accepted proposals at each level, from noise to data; None without MALA.
        nfe: gradient evaluations per sample over all terms, without the pilots.
    """

    images: Tensor
    data: Tensor
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
) -> Composed:
    """Draw n images from a composed density. Image i depends only on (seed, i), not on the batch size.

    Args:
        composition: the composed density.
        n: the number of images.
        seed: the seed of all images.
        first: the index of the first image, so that a large set can be drawn in parts.
        mcmc: the chains at each level: "mala" is exact; "ula" has a small bias that depends on its step; "none" is the
            composed flow alone, which is biased for & and ~ and exact for |.
        mcmc_steps: the number of steps of the chains per level; None is `STEPS`.
        levels: the number of noise levels.
        batch_size: the number of images that are computed at once.
        on_level: called with the share of the work that is done, in [0, 1].
    Raises:
        ConfigError: a setting does not exist, or settings contradict each other.
        SolverError: the flow or a chain became non-finite.
    """
    if mcmc not in MCMC:
        raise ConfigError(f"unknown mcmc {mcmc!r}", hint=f"there are: {', '.join(MCMC)}")
    if mcmc == "none" and mcmc_steps is not None:
        raise ConfigError(f"mcmc_steps = {mcmc_steps} without mcmc", hint="there are: mala, ula")
    if mcmc == "none" and not composition.has_flow:
        raise ConfigError(
            "the flow of a product of unconditional models does not sample from it, so mcmc = 'none' is not possible",
            hint="use mala, which samples from the product",
        )
    steps = STEPS if mcmc_steps is None else mcmc_steps
    if min(n, steps, batch_size) < 1 or levels < 2:
        raise ConfigError(
            f"n = {n}, mcmc_steps = {steps}, batch_size = {batch_size}, levels = {levels}",
            hint="at least 1 each, and 2 levels",
        )
    ladder = composition.levels.ladder(levels)
    batches = [range(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    progress = _Progress(on_level, levels * (PILOTS * (mcmc != "none") + n))
    scales = [] if mcmc == "none" else _tune(composition, ladder, seed, max(steps, STEPS), progress)
    if mcmc == "ula":
        scales = [ULA_SHARE * scale for scale in scales]

    accepted, drawn = [0.0] * levels, []
    for batch in batches:
        indices = range(first + batch.start, first + batch.stop)
        codes = noise.normal(composition.model.shape, seed, indices)

        def walk(x: Tensor, level: float, index: int, first: int = indices.start) -> Tensor:
            _, deviation = composition.model.field.scales(level)
            walked = langevin(
                partial(composition.energy_and_score, level=level), x, deviation**2, steps=steps, seed=seed,
                stream=f"composition {index}", first=first, method=mcmc, scale=scales[index],
            )  # fmt: skip
            accepted[index] += walked.acceptance * len(x) / n
            return walked.x

        drawn.append(_carry(composition, codes, ladder, _stay if mcmc == "none" else walk, progress).cpu())
    data = torch.cat(drawn)
    moves = sum(level < composition.levels.highest for level in ladder)  # the first level may be where the flow begins
    evaluations = STEP_COST * moves + (0 if mcmc == "none" else levels * (steps + 1))
    return Composed(
        images=composition.model.statistics.to_images(data),
        data=data,
        acceptance=tuple(accepted) if mcmc == "mala" else None,
        nfe=evaluations * len(composition.terms),
    )


class _Progress:
    """The work that is done, in samples times levels."""

    def __init__(self, on_level: Callable[[float], None] | None, total: int) -> None:
        self._on_level, self._total, self._done = on_level, total, 0

    def add(self, samples: int) -> None:
        self._done += samples
        if self._on_level is not None:
            self._on_level(self._done / self._total)


def _carry(composition: Composition, codes: Tensor, ladder: list[float], settle: Settle, progress: _Progress) -> Tensor:
    """Samples at the lowest level from points of the prior, (N, …)."""

    def settled(x: Tensor, level: float, index: int) -> Tensor:
        x = settle(x, level, index)
        progress.add(len(x))
        return x

    codes = codes.to(composition.model.device)
    return descend(composition.velocity, codes, composition.start, ladder, composition.position, settled)


def _stay(x: Tensor, level: float, index: int) -> Tensor:  # noqa: ARG001
    return x


def _tune(composition: Composition, ladder: list[float], seed: int, steps: int, progress: _Progress) -> list[float]:
    """The step scale c of MALA at each level: the geometric mean over the pilots after their steps at that level.

    The pilots start each level with the scale of the level before.
    """
    scales = [1.0]

    def walk(x: Tensor, level: float, index: int) -> Tensor:
        _, deviation = composition.model.field.scales(level)
        walked = langevin(
            partial(composition.energy_and_score, level=level), x, deviation**2, steps=steps, seed=seed,
            stream=f"composition pilot {index}", scale=scales[-1], adapt=True,
        )  # fmt: skip
        scales.append(float(walked.step_scale.log().mean().exp()))
        return walked.x

    codes = noise.normal(composition.model.shape, seed, range(PILOTS), "composition pilots")
    _carry(composition, codes, ladder, walk, progress)
    return scales[1:]
