"""A residual multilayer perceptron for vectors, such as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.networks.mlp import MLP

FEW = 8  # columns up to which half the width is as accurate


class ResidualMLP(MLP):
    """u (N, dim), level (N,) or None, condition (N, G) or None → one scalar per sample, (N,).

    Each of the `depth` blocks adds the output of a hidden layer, which receives the level and the condition, to its
    input. It learned densities in the plane more accurately than `MLP` with as many parameters. The last layer starts
    at zero. It has no bias, because a constant does not change the gradient.

    Args:
        dim: number of components of u.
        width: units in each hidden layer.
        depth: blocks.
        classes: number of classes in each condition group.
    """

    name = "residual-mlp"

    def __init__(self, dim: int, width: int = 128, depth: int = 3, classes: Sequence[int] = ()) -> None:
        nn.Module.__init__(self)
        self.embedding = ConditionEmbedding(width, classes)
        self.first = nn.Linear(dim, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)
        self.last = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        del classes, asked
        chosen: dict[str, Any] = {"width": 64 if shape[0] <= FEW else 128, "depth": 3, **preset}
        return {name: chosen[name] for name in cls.Settings.names()}

    def features(self, u: Tensor, level: Tensor | None, condition: Tensor | None) -> Tensor:
        """The input of the last layer, (N, width)."""
        embedding = self.embedding(u, level, condition)
        hidden = self.first(u)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            hidden = hidden + outer(F.silu(inner(F.silu(hidden + embedding))))
        return F.silu(hidden + embedding)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        return torch.squeeze(self.last(self.features(u, level, condition)), 1)
