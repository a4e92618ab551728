"""Noise levels, and the walk down a ladder of them from noise to data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError, SolverError

STEP_COST = 2  # evaluations of the velocity that a step of `descend` takes
LARGEST_RUNG = math.exp(4.0)  # where ladders begin: at more noise next to nothing of the data is left


@dataclass(frozen=True)
class Levels:
    """The noise levels at which a field has an energy. A level is the ratio of noise to data, σ/(μ a).

    Attributes:
        highest: the level of the prior; infinite where it is pure noise.
        lowest: the level nearest the data.
    """

    highest: float
    lowest: float

    def ladder(self, count: int) -> list[float]:
        """`count` levels from noise to data, evenly spaced in their logarithm; the last one is the lowest.

        Raises:
            ConfigError: fewer than two levels.
        """
        if count < 2:
            raise ConfigError(f"levels = {count}: a ladder has at least 2 noise levels")
        first = math.log(min(self.highest, LARGEST_RUNG))
        last = math.log(self.lowest)
        return [math.exp(first + (last - first) * i / (count - 1)) for i in range(count - 1)] + [self.lowest]

    def require(self, level: float) -> float:
        """The level, if it is one of these.

        Raises:
            ConfigError: it is not, or it is not a finite number.
        """
        if not (self.lowest * (1 - 1e-12) <= level <= self.highest * (1 + 1e-12) and level < math.inf):
            least, most = f"{self.lowest:.3g}", f"{self.highest:.3g}"
            raise ConfigError(
                f"level {level} is not at or above {least}, the lowest noise level of this model"
                if math.isinf(self.highest)
                else f"level {level} is not between {least} and {most}, the noise levels of this model",
                hint="the level is the ratio of noise to data",
            )
        return level


Settle = Callable[[Tensor, float, int], Tensor]  # (x, level, index of the level) → x


def descend(
    velocity: Callable[[Tensor, float], Tensor],
    x: Tensor,
    start: float,
    levels: Sequence[float],
    position: Callable[[float], float],
    settle: Settle,
) -> Tensor:
    """Carry points from the prior to the data: one step of Heun's method to each level, and `settle` there.

    Args:
        velocity: (x (N, …), s) → (N, …), the flow's velocity at position s.
        x: points of the prior, (N, …).
        start: the position of the prior along the flow.
        levels: noise levels, falling.
        position: level → position along the flow.
        settle: what happens at each level, such as a few steps of a Markov chain.
    Returns:
        points at the last level, (N, …).
    Raises:
        SolverError: a point left the finite numbers.
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
                    f"{lost} of {len(x)} samples left the finite numbers on the way to noise level {level:.3g}",
                    hint="check the model and its input",
                )
        x = settle(x, level, index)
        before = after
    return x
