"""The noise levels of a field, and a sampler that goes down a ladder of them from noise to data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError, SolverError
from vpfb_core.settings import number

STEP, STEP_COST = "heun", 2  # the solver of `descend`, and its evaluations of the velocity per step
MOST_LEVELS = 100_000  # of a ladder, which is a list in memory
LARGEST_RUNG = math.exp(4.0)  # the highest level of a ladder; above it, samples hardly depend on the data


@dataclass(frozen=True)
class Levels:
    """The range of noise levels at which a field has an energy.

    A level is the ratio of noise to data, σ/(μ a), where the sample is μ x̄ + σ ε and a is the standard deviation of x̄.

    Attributes:
        highest: the level of the prior; infinite if the prior is pure noise.
        lowest: the level nearest to the data.
        lowest_for_chains: the lowest level at which differences of energies are accurate enough for a Metropolis test.
    """

    highest: float
    lowest: float
    lowest_for_chains: float = 0.0

    @property
    def single(self) -> bool:
        """Whether there is one level only, so that there is no ladder."""
        return self.lowest == self.highest

    def allow_chains(self, level: float) -> bool:
        """Whether Markov chains may run at a level. Below, only the flow goes on towards the data."""
        return level >= self.lowest_for_chains * (1 - 1e-12)

    def ladder(self, count: int) -> list[float]:
        """Noise levels from noise to data, evenly spaced in their logarithm. The last one is `lowest`.

        Args:
            count: the number of levels.
        Raises:
            ConfigError: `count` is below 2 or above `MOST_LEVELS`.
        """
        if count < 2:
            raise ConfigError(f"levels = {count}: a ladder has at least 2 noise levels")
        if count > MOST_LEVELS:
            raise ConfigError(f"levels = {count:,} is too many", hint=f"it may be at most {MOST_LEVELS:,}")
        first = math.log(min(self.highest, LARGEST_RUNG))
        last = math.log(self.lowest)
        return [math.exp(first + (last - first) * i / (count - 1)) for i in range(count - 1)] + [self.lowest]

    def require(self, level: float) -> float:
        """Return `level` as a float if the field has an energy there.

        Raises:
            ConfigError: the level is outside of this range, or it is not a finite number.
        """
        level = number("level", level)
        if not (self.lowest * (1 - 1e-12) <= level <= self.highest * (1 + 1e-12) and level < math.inf):
            least, most = f"{self.lowest:.3g}", f"{self.highest:.3g}"
            raise ConfigError(
                f"level {level} is not at or above {least}, the lowest noise level of this model"
                if math.isinf(self.highest)
                else f"level {level} is not between {least} and {most}, the noise levels of this model",
                hint="the level is the ratio of noise to data",
            )
        return level


Settle = Callable[[Tensor, float, int], Tensor]  # (x, level, index of the level) → x at the same level


def descend(
    velocity: Callable[[Tensor, float], Tensor],
    x: Tensor,
    start: float,
    levels: Sequence[float],
    position: Callable[[float], float],
    settle: Settle,
) -> Tensor:
    """Transport points from the prior to the last of the levels.

    Each level is reached by one step of Heun's method along the flow, after which `settle` is called.

    Args:
        velocity: (x (N, …), s) → (N, …), the velocity of the flow at position s.
        x: points of the prior, (N, …).
        start: the position of the prior along the flow.
        levels: noise levels in falling order.
        position: maps a level to its position along the flow.
        settle: moves the points at one level, for example by a few steps of a Markov chain.
    Returns:
        The points at the last level, (N, …).
    Raises:
        SolverError: a point became non-finite.
    """
    before = start
    for index, level in enumerate(levels):
        after = position(level)
        if after > before:
            with torch.no_grad():
                slope = velocity(x, before)
                x = x + (after - before) / 2 * (slope + velocity(x + (after - before) * slope, after))
            lost = int((~x.flatten(1).isfinite().all(1)).sum())
            if lost:
                raise SolverError(
                    f"{lost} of {len(x)} samples became non-finite on the way to noise level {level:.3g}",
                    hint="check the model and its input",
                )
        x = settle(x, level, index)
        before = after
    return x
