"""The points of the path that training and validation draw: data with angles and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.step import Validation


class Part(NamedTuple):
    """A part of a batch, whose loss is computed at once.

    Random numbers are drawn for the whole batch, and those of the part are cut from them. The losses of all parts, each
    with a generator of the same seed, therefore add up to the loss of the batch, whether the parts are computed on
    several devices or one after the other.

    Attributes:
        first: the row of the batch with which the part begins.
        total: the number of rows of the batch.
    """

    first: int
    total: int

    def of(self, drawn: Tensor, count: int) -> Tensor:
        """The `count` rows of this part of a tensor that was drawn for the whole batch, (total, …)."""
        return drawn[self.first : self.first + count]


@dataclass(frozen=True)
class Pairs:
    """2N training points, in which rows i and N + i have the same datum, angle and condition and opposite noise.

    For a given variance that comes from data and angles, pairs cost half as much as independent points. They also
    cancel the odd part of the variance in ε.
    """

    data: Tensor
    angle: Tensor
    noise: Tensor
    condition: Tensor | None


def draw_pairs(
    data: Tensor,
    condition: Tensor | None,
    angle_range: tuple[float, float],
    generator: torch.Generator,
    angles: AngleDistribution,
    part: Part | None,
) -> Pairs:
    """Pairs for the data, with one angle and two noises per datum.

    Args:
        data: (N, …).
        condition: class indices, int64 (N, G), −1 for none; or None.
        angle_range: the angles of the schedule.
        generator: the only source of randomness, on the device of the data.
        angles: the distribution of the angles.
        part: the part of a batch that the data are; None if they are the whole batch.
    """
    part = part or Part(0, len(data))
    angle = angles.sample(part.total, angle_range, like=data, generator=generator)
    angle, noise = part.of(angle, len(data)), normal_like(data, generator, part)
    return Pairs(
        data=torch.cat([data, data]),
        angle=torch.cat([angle, angle]),
        noise=torch.cat([noise, -noise]),
        condition=None if condition is None else torch.cat([condition, condition]),
    )


def normal_like(data: Tensor, generator: torch.Generator, part: Part) -> Tensor:
    """Standard normal noise for a part of a batch, like data."""
    shape = (part.total, *data.shape[1:])
    return part.of(torch.randn(shape, generator=generator, dtype=data.dtype, device=data.device), len(data))


@dataclass(frozen=True)
class ValidationPoints:
    """Validation data with fixed angles and noise, so that the figures of different models can be compared."""

    data: Tensor
    condition: Tensor | None
    angle: Tensor
    noise: Tensor

    @classmethod
    def of(cls, angle_range: tuple[float, float], angles: AngleDistribution, data: Validation) -> ValidationPoints:
        """One point per requested datum. The angles of all data are at equally spaced quantiles."""
        (rows, z, condition), count = data.share(), len(data.data)
        # The strata are shuffled, since the data may be sorted.
        order = torch.randperm(count, generator=noise.generator(data.seed, "held-out angles"))
        quantiles = ((order[rows.start : rows.stop] + 0.5) / count).to(z.device)
        epsilon = noise.normal(z.shape[1:], data.seed, rows, "held-out").to(z)
        return cls(z, condition, angles.quantile(quantiles, angle_range), epsilon)
