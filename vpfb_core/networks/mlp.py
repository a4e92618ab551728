"""A multilayer perceptron for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.embedding import ConditionEmbedding


class MLP(nn.Module):
    """u (N, dim), level (N,) or None, condition (N, G) or None → one scalar per sample, (N,).

    The activations are smooth, because a flow and its divergence are first and second derivatives of the scalar. The
    last layer starts at zero. It has no bias, because a constant does not change the gradient.

    Args:
        dim: number of components of u.
        width: units in each hidden layer.
        depth: hidden layers.
        classes: number of classes in each condition group.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 3, classes: Sequence[int] = ()) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(width, classes)
        self.first = nn.Linear(dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        hidden = F.silu(self.first(u) + self.embedding(u, level, condition))
        for layer in self.hidden:
            hidden = F.silu(layer(hidden))
        return torch.squeeze(self.last(hidden), 1)
