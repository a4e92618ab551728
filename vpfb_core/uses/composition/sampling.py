"""Samples of a composed density, by the composed flow and what corrects its bias at every noise level.

Each level of a ladder is reached by one step of Heun's method along the flow. A few steps of MALA or ULA follow, for
which the composed energy is exact. They are needed at every level, since the flow has a bias at every level. They do
not move samples from one mode to another, so that the shares of the modes keep the bias of the flow.

Sequential Monte Carlo corrects the shares as well (Del Moral, Doucet & Jasra 2006). Along the flow, the logarithm of
the weight of each sample changes at the rate of `Composition.rate`. When the effective sample size of the population
falls below half, samples are copied in proportion to their weights, and MALA moves the copies apart.

Energies at one noise level only have no ladder. Their sum is composed: samples follow its gradient flow from noise, and
a longer chain follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import STEP_COST, Settle, descend
from vpfb_core.dynamics.langevin import Walk, langevin
from vpfb_core.dynamics.population import effective_sample_size, systematic
from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.model.trained import TrainedModel
from vpfb_core.names import MCMC
from vpfb_core.settings import require_index, whole_number
from vpfb_core.uses.composition.energy import Composition
from vpfb_core.uses.composition.expression import Expression
from vpfb_core.uses.composition.terms import ModelName
from vpfb_core.uses.draw import batches

STEPS = 4
LEVELS = 50
BATCH = 64  # the number of samples that are computed at once, each once per term

# The step scales are tuned on pilot chains that are discarded. The chains of the samples then have fixed scales, which
# keeps MALA exact, and sample i depends only on the seed and i.
PILOTS = 16
ULA_SHARE = 0.5  # the step scale of ULA relative to MALA's, since its bias grows with the step

AT_ONE_LEVEL = 10  # the number of levels whose steps are taken by the chain of energies at a single one
BURN_IN = 50  # steps of that chain before them
RATE_COST = 2  # evaluations per level for the weights, at its beginning and its end
RESAMPLED_BELOW = 0.5  # of the size of the population: the effective sample size at which samples are copied


@dataclass(frozen=True)
class Composed:
    """Samples of a composed density, on the CPU.

    Attributes:
        images: float32 (n, C, H, W) in [0, 1].
        data: the samples as data of unit variance, like images.
        acceptance: the share of accepted proposals at each level with chains, from noise to data; None without MALA.
        nfe: gradient evaluations per sample over all terms, without the pilots.
        resampled: how often the population was resampled; None without weights.
        log_normaliser: the logarithm of the integral of the composed density at the last level with chains, where the
            densities of the names are normalised; None without weights. For "a & b" it is log P(a, b)/(P(a) P(b)).
    """

    images: Tensor
    data: Tensor
    acceptance: tuple[float, ...] | None
    nfe: int
    resampled: int | None = None
    log_normaliser: float | None = None


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
    """Draw n images from a composed density. Image i depends only on (seed, i), with "smc" on (seed, i, n).

    Args:
        composition: the composed density.
        n: the number of images.
        seed: the seed of all images.
        first: the index of the first image, so that a large set can be drawn in parts.
        mcmc: what corrects the flow at each level. "mala" runs Metropolis-adjusted chains, which are exact within a
            mode. "smc" weights and copies samples as well, which makes the shares of modes right in a large population.
            "ula" has a small bias that depends on its step. "none" is the composed flow alone, which is biased for &
            and for quotients, and exact for | and for ~ of a class.
        mcmc_steps: the number of steps of the chains per level; None is `STEPS`.
        levels: the number of noise levels. Below the lowest level at which the models allow chains there is only the
            flow.
        batch_size: the number of images that are computed at once.
        on_level: called with the share of the work that is done, in [0, 1].
    Raises:
        ConfigError: a setting does not exist, or settings contradict each other.
        SolverError: the flow or a chain became non-finite.
    """
    if mcmc not in MCMC:
        raise ConfigError(f"unknown mcmc {mcmc!r}", hint=f"there are: {', '.join(MCMC)}")
    if mcmc == "none" and mcmc_steps is not None:
        raise ConfigError(f"mcmc_steps = {mcmc_steps} without mcmc", hint="there are: mala, smc, ula")
    if composition.at_one_level and mcmc in ("none", "smc"):
        raise ConfigError(
            f"mcmc = {mcmc!r} needs a flow through noise levels, and these models have an energy at one level only",
            hint="use mala",
        )
    if mcmc == "none" and not composition.has_flow:
        raise ConfigError(
            "the flow of a product of unconditional models does not sample from it, so mcmc = 'none' is not possible",
            hint="use mala, which samples from the product",
        )
    steps = STEPS if mcmc_steps is None else mcmc_steps
    least = {"n": (n, 1), "mcmc_steps": (steps, 1), "batch_size": (batch_size, 1), "levels": (levels, 2)}
    for name, (number, lowest) in least.items():
        if whole_number(name, number) < lowest:
            raise ConfigError(f"{name} = {number} is not at least {lowest}")
    first = require_index("first", first)
    if composition.at_one_level:
        return _at_one_level(composition, n, seed, first, mcmc, steps, levels, batch_size, on_level)
    chains = mcmc != "none"
    progress = _Progress(on_level, levels * (PILOTS * chains + n))
    descent = _Descent(composition, composition.levels.ladder(levels), seed, first, batch_size, progress)
    scales = _tune(descent, max(steps, STEPS)) if chains else []
    if mcmc == "ula":
        scales = [ULA_SHARE * scale for scale in scales]
    weights = _Weights(descent, n) if mcmc == "smc" else None
    accepted: list[float] = []

    def settle(x: Tensor, level: float, index: int) -> Tensor:
        if weights is not None:
            x = weights.arrive(x, index)
        x, acceptance = descent.walk(x, level, index, steps, "ula" if mcmc == "ula" else "mala", scales[index])
        accepted.append(acceptance)
        if weights is not None:
            weights.depart(x, level)
        return x

    codes = noise.normal(composition.model.shape, seed, range(first, first + n))
    data = descent.run(codes, settle if chains else _stay).cpu()
    evaluations = descent.evaluations(steps + 1 if chains else 0) + (RATE_COST * descent.walks if weights else 0)
    return Composed(
        images=composition.model.statistics.restore(data),
        data=data,
        acceptance=tuple(accepted) if mcmc in ("mala", "smc") else None,
        nfe=evaluations * len(composition.terms),
        resampled=None if weights is None else weights.resampled,
        log_normaliser=None if weights is None else weights.log_normaliser,
    )


def compose(
    model: TrainedModel,
    expression: str | Expression,
    n: int,
    seed: int = 0,
    *,
    others: Mapping[str, TrainedModel] | None = None,
    **settings: Any,
) -> Composed:
    """Draw n images from the composed density of an expression of a model's classes, such as "circle & ~large".

    Args:
        model: the model of the names without a model.
        expression: names that are joined by & (and), | (or), ~ (not), parentheses and weights (1.5*red).
        n: the number of images.
        seed: the seed of all images.
        others: other models by the names that the expression has for them, as in "circle & other:large".
        settings: those of `sample`, such as mcmc and levels.
    Raises:
        ConfigError: as for `Composition` and `sample`.
        CheckpointError: a model in an | is not calibrated.
        SolverError: the flow or a chain became non-finite.
    """
    models: dict[ModelName, TrainedModel] = {None: model}
    models.update((others or {}).items())
    return sample(Composition(expression, models), n, seed, **settings)


def _at_one_level(
    composition: Composition,
    n: int,
    seed: int,
    first: int,
    mcmc: str,
    steps: int,
    flow_steps: int,
    batch_size: int,
    on_part: Callable[[float], None] | None,
) -> Composed:
    """`sample` for energies at one level: their gradient flow from noise, and a chain in which each sample adapts."""
    model, level = composition.model, composition.levels.lowest
    field, variance = model.field, model.field.chain_variance(level)
    target = partial(composition.energy_and_score, level=level)
    codes = noise.normal(model.shape, seed, range(first, first + n))
    ends, accepted, evaluations = [], 0.0, 0
    for rows in batches(n, batch_size):
        x = codes[rows].to(model.device)
        x = field.at_level(torch.zeros_like(x), math.inf, x)
        flow = relax(target, x, variance, Solver.choose("euler", nfe=flow_steps), Chain(0, 0.0)).require_success()
        chain = partial(langevin, target, variance=variance, seed=seed, first=first + rows.start)
        burnt = chain(flow.x, steps=BURN_IN, stream="composition burn-in", scale=0.1, adapt=True)
        scale = burnt.step_scale * (ULA_SHARE if mcmc == "ula" else 1.0)
        walked = chain(burnt.x, steps=AT_ONE_LEVEL * steps, stream="composition", scale=scale, method=mcmc)
        end, more = composition.denoised(walked.x)
        ends.append(end.cpu())
        accepted += walked.acceptance * len(x) / n
        evaluations = flow_steps + burnt.evaluations + walked.evaluations + more
        if on_part is not None:
            on_part(rows.stop / n)
    data = torch.cat(ends)
    return Composed(
        images=model.statistics.restore(data),
        data=data,
        acceptance=(accepted,) if mcmc == "mala" else None,
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


@dataclass(frozen=True)
class _Descent:
    """The way of a population down the ladder, in which each batch is computed at once.

    Attributes:
        ladder: the noise levels, falling.
        first: the index of the first sample.
    """

    composition: Composition
    ladder: list[float]
    seed: int
    first: int
    batch_size: int
    progress: _Progress

    @property
    def walks(self) -> int:
        """The number of levels with chains."""
        return sum(map(self.composition.levels.allow_chains, self.ladder))

    def evaluations(self, per_walk: int) -> int:
        """Evaluations of each term per sample, with `per_walk` at each level with chains."""
        moves = sum(level < self.composition.levels.highest for level in self.ladder)  # the flow may begin at the first
        return STEP_COST * moves + per_walk * self.walks

    def run(self, codes: Tensor, settle: Settle) -> Tensor:
        """Samples at the last level from points of the prior, (n, …).

        Args:
            settle: (x, level, index of the level) → x, called at every level with chains.
        """

        def settled(x: Tensor, level: float, index: int) -> Tensor:
            if self.composition.levels.allow_chains(level):
                x = settle(x, level, index)
            self.progress.add(len(x))
            return x

        composition, codes = self.composition, codes.to(self.composition.model.device)
        velocity = self.batched(composition.velocity)
        return descend(velocity, codes, composition.start, self.ladder, composition.position, settled)

    def batched(self, function: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
        """A function of points and a position that is computed in batches."""
        return lambda x, s: torch.cat([function(part, s) for part in x.split(self.batch_size)])

    def walk(self, x: Tensor, level: float, index: int, steps: int, method: str, scale: float) -> tuple[Tensor, float]:
        """The samples after some steps of their chains at a level, and the share of accepted proposals."""
        walked = [
            self.chain(level)(
                x[rows], steps=steps, stream=f"composition {index}", first=self.first + rows.start, method=method,
                scale=scale,
            )
            for rows in batches(len(x), self.batch_size)
        ]  # fmt: skip
        accepted = sum(walk.acceptance * len(walk.x) for walk in walked) / len(x)
        return torch.cat([walk.x for walk in walked]), accepted

    def chain(self, level: float) -> Callable[..., Walk]:
        """`langevin` for the composed density of a level; it takes the states and the other settings."""
        target = partial(self.composition.energy_and_score, level=level)
        variance = self.composition.model.field.chain_variance(level)
        return partial(langevin, target, variance=variance, seed=self.seed)


def _stay(x: Tensor, level: float, index: int) -> Tensor:  # noqa: ARG001
    return x


class _Weights:
    """The log-weights of a population on its way down the ladder.

    They change by the integral of `Composition.rate` from level to level, by the trapezoidal rule.
    """

    def __init__(self, descent: _Descent, n: int) -> None:
        self._descent, self._composition = descent, descent.composition
        self._rate = descent.batched(self._composition.rate)
        self._log_weights = torch.zeros(n, dtype=torch.float64)
        self._departed: tuple[float, Tensor] | None = None  # the position of the level before, and the rates there
        self.resampled = 0
        self.log_normaliser = 0.0

    def arrive(self, x: Tensor, index: int) -> Tensor:
        """The population at a level, after resampling if its effective sample size is too small."""
        position = self._composition.position(self._descent.ladder[index])
        if self._departed is not None:
            before, rate = self._departed
            change = (position - before) / 2 * (rate + self._rate(x, position))
            self._log_weights += change.cpu().double()
        last = index == self._descent.walks - 1
        if last or effective_sample_size(self._log_weights) < RESAMPLED_BELOW * len(x):
            x = self._resample(x, index)
        return x

    def depart(self, x: Tensor, level: float) -> None:
        """Note the rates of the population where it leaves a level."""
        position = self._composition.position(level)
        self._departed = position, self._rate(x, position)

    def _resample(self, x: Tensor, index: int) -> Tensor:
        offset = float(noise.uniform((), self._descent.seed, [index], "composition resampling")) + 0.5
        chosen = systematic(self._log_weights, offset)
        self.log_normaliser += float(torch.logsumexp(self._log_weights, 0)) - math.log(len(x))
        self._log_weights.zero_()
        self.resampled += 1
        return x[chosen.to(x.device)]


def _tune(descent: _Descent, steps: int) -> list[float]:
    """The step scale c of MALA at each level: the geometric mean over the pilots after their steps at that level.

    The pilots start each level with the scale of the level before.
    """
    scales = [1.0]

    def walk(x: Tensor, level: float, index: int) -> Tensor:
        stream = f"composition pilot {index}"
        walked = descent.chain(level)(x, steps=steps, stream=stream, scale=scales[-1], adapt=True)
        scales.append(float(walked.step_scale.log().mean().exp()))
        return walked.x

    descent.run(noise.normal(descent.composition.model.shape, descent.seed, range(PILOTS), "composition pilots"), walk)
    return scales[1:]
