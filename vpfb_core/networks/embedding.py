"""What every network is told beside u: where on the arc it is, and under which condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AngleFeatures(nn.Module):
    """φ (N,) → sines and cosines of ω φ, (N, features), for frequencies ω in a geometric row.

    φ itself is bounded and smooth from pure noise to data, so nothing here grows at either end. The highest
    frequency tells φ apart near the data end, where cot φ, the noise-to-signal ratio, is a few hundredths.
    """

    def __init__(self, features: int, max_frequency: float = 64.0) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(max_frequency), features // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, angle: Tensor) -> Tensor:
        phase = angle[:, None] * self.frequencies.to(angle.dtype)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)


class ConditionEmbedding(nn.Module):
    """(φ, condition) → one vector a sample, (N, width).

    Each condition group has a table of its own, row 0 for "none" (index −1) and row k + 1 for class k; the groups'
    rows are summed onto the embedded angle.

    Args:
        width: size of the vector.
        classes: number of classes in each condition group; () for an unconditional network.
    """

    def __init__(self, width: int, classes: Sequence[int] = ()) -> None:
        super().__init__()
        self.angle = nn.Sequential(AngleFeatures(64), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.groups = nn.ModuleList(nn.Embedding(count + 1, width) for count in classes)

    def forward(self, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        embedding = self.angle(angle)
        if condition is None and self.groups:
            condition = torch.full((len(angle), len(self.groups)), -1, device=angle.device)
        for column, group in enumerate(self.groups):
            assert condition is not None
            embedding = embedding + group(condition[:, column] + 1)
        return embedding
