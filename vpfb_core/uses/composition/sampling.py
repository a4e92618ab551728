"""Samples of a composed density: the composed flow, with Markov chains at every noise level that correct its bias.

The levels are those of the field's ladder; to each one leads a step of Heun's method along the flow, and there a few
steps of MALA (or ULA) follow, for which the composed energy is exact. Chains at high noise only would change nothing:
at every level the flow falls behind the product a little.
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
BATCH = 64  # samples computed at once; each counts once for every term

# The step is tuned by MALA on chains that are thrown away, so that the chains that count keep theirs fixed, which makes
# them exact, and sample i depends on the seed and i alone.
PILOTS = 16
ULA_SHARE = 0.5  # of MALA's step scale: without the Metropolis test, the bias grows with the step


@dataclass(frozen=True)
class Composed:
    """Samples of a composed density, on the CPU.

    Attributes:
        images: float32 (n, C, H, W) in [0, 1].
        data: of unit variance, like images.
        acceptance: share of the proposals that were accepted at each level, from noise to data; None without MALA.
        nfe: gradient evaluations per sample, of every term; without the pilots.
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
    """Draw n images of a composed density. Image i depends on (seed, i), whatever the batch size.

    Args:
        first: index of the first image, so that many can be drawn in parts.
        mcmc: chains at each level: "mala", exact; "ula", biased a little by its steps; "none", the composed flow alone,
            biased for & and ~ and exact for |.
        mcmc_steps: of the chains at each level, `STEPS` unless said otherwise.
        levels: noise levels of the ladder.
        on_level: called with the share of the work that is done, in [0, 1].
    Raises:
        ConfigError: settings that do not exist or contradict each other.
        SolverError: the flow or the chains left the finite numbers.
    """
    if mcmc not in MCMC:
        raise ConfigError(f"unknown mcmc {mcmc!r}", hint=f"there are: {', '.join(MCMC)}")
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
    """How much is done, in samples times levels."""

    def __init__(self, on_level: Callable[[float], None] | None, total: int) -> None:
        self._on_level, self._total, self._done = on_level, total, 0

    def add(self, samples: int) -> None:
        self._done += samples
        if self._on_level is not None:
            self._on_level(self._done / self._total)


def _carry(composition: Composition, codes: Tensor, ladder: list[float], settle: Settle, progress: _Progress) -> Tensor:
    """Prior points (N, …) down the ladder to the lowest level."""

    def settled(x: Tensor, level: float, index: int) -> Tensor:
        x = settle(x, level, index)
        progress.add(len(x))
        return x

    codes = codes.to(composition.model.device)
    return descend(composition.velocity, codes, composition.start, ladder, composition.position, settled)


def _stay(x: Tensor, level: float, index: int) -> Tensor:  # noqa: ARG001
    return x


def _tune(composition: Composition, ladder: list[float], seed: int, steps: int, progress: _Progress) -> list[float]:
    """The step scale c of MALA at each level: the pilots' geometric mean after their steps there.

    The next level begins with it.
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
