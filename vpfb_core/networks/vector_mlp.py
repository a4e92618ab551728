"""A residual multilayer perceptron from vectors to vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vpfb_core.networks.residual_mlp import ResidualMLP


class VectorMLP(ResidualMLP):
    """u (N, dim), level (N,) or None, condition (N, G) or None → a vector shaped like u, such as a velocity.

    It is a `ResidualMLP` with one output per component, all of which start at zero. Arguments are those of
    `ResidualMLP`.
    """

    name = "vector-mlp"
    scalar = False

    def __init__(self, dim: int, width: int = 128, depth: int = 3, classes: Sequence[int] = ()) -> None:
        super().__init__(dim, width, depth, classes)
        self.last = nn.Linear(width, dim)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        output: Tensor = self.last(self.features(u, level, condition))
        return output
