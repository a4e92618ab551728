"""The embedding of the noise level and the condition, which every network receives beside its input u."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MAX_FREQUENCY = 64.0


class LevelFeatures(nn.Module):
    """Level (N,) → sines and cosines of (frequency x level), (N, features).

    The frequencies form a geometric sequence from 1 to `MAX_FREQUENCY`. The level is bounded, so the features stay
    smooth from pure noise to data. The highest frequency separates levels near the data, which differ by a few
    hundredths.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        # On the CPU whatever the default device is: torch loads its compiler for these two functions of a meta tensor.
        exponents = torch.linspace(0, math.log(MAX_FREQUENCY), features // 2, device="cpu")
        frequencies = torch.exp(exponents)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, level: Tensor) -> Tensor:
        phase = level[:, None] * self.frequencies.to(level.dtype)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)


class ConditionEmbedding(nn.Module):
    """(u, level, condition) → one vector per sample, (N, width). Only the number of samples and the type of u matter.

    Each condition group has its own table: row 0 for "none" (index −1) and row k + 1 for class k. The rows of all
    groups are added to the embedded level. A level of None is embedded as 0, which gives a learned constant vector.
    The level is embedded in float32 under autocast too, because its derivative is multiplied by the frequencies.

    Args:
        width: size of the vector.
        classes: number of classes in each condition group; () for an unconditional network.
    """

    def __init__(self, width: int, classes: Sequence[int] = ()) -> None:
        super().__init__()
        self.level = nn.Sequential(LevelFeatures(64), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.groups = nn.ModuleList(nn.Embedding(count + 1, width) for count in classes)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            embedding = self.level(u.new_zeros(len(u)) if level is None else level)
        if condition is None and self.groups:
            condition = torch.full((len(u), len(self.groups)), -1, device=u.device)
        for column, group in enumerate(self.groups):
            assert condition is not None
            embedding = embedding + group(condition[:, column] + 1)
        return embedding
