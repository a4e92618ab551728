"""The gap between the statistics of samples and those of real data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gap:
    """The difference between the means of a statistic over samples and over real data.

    Attributes:
        name: the name of the statistic.
        real, samples: its means.
        gap_sd: samples minus real, in standard deviations of the real data. NaN if they all have the same value.
        gap_se: the same in standard errors of the difference. NaN if neither set varies.
    """

    name: str
    real: float
    samples: float
    gap_sd: float
    gap_se: float


def gaps(columns: Sequence[str], samples: Tensor, real: Tensor) -> list[Gap]:
    """The gap of each statistic.

    Args:
        columns: the names of the statistics.
        samples, real: the statistics of each datum, float64 (N, columns), at least two each.
    """
    of_samples, of_real = samples.mean(0), real.mean(0)
    difference = of_samples - of_real
    error = torch.sqrt(samples.var(0) / len(samples) + real.var(0) / len(real))
    columns_of = zip(columns, of_real, of_samples, difference, real.std(0), error, strict=True)
    return [
        Gap(name, float(theirs), float(ours), _ratio(apart, spread), _ratio(apart, deviation))
        for name, theirs, ours, apart, spread, deviation in columns_of
    ]


def _ratio(difference: Tensor, unit: Tensor) -> float:
    return float(difference / unit) if float(unit) > 0 else math.nan
