"""A multilayer perceptron for vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.errors import ConfigError
from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.networks.network import Network
from vpfb_core.settings import Settings, setting


@dataclass(frozen=True)
class MLPSettings(Settings):
    """The settings of `MLP`."""

    width: int | None = setting(None, help="Units in each hidden layer.", low=1, high=2**16)
    depth: int | None = setting(None, help="Hidden layers.", low=1, high=64)


class MLP(Network):
    """u (N, dim), level (N,) or None, condition (N, G) or None → one scalar per sample, (N,).

    The activations are smooth, because a flow and its divergence are first and second derivatives of the scalar. The
    last layer starts at zero. It has no bias, because a constant does not change the gradient.

    Args:
        dim: number of components of u.
        width: units in each hidden layer.
        depth: hidden layers.
        classes: number of classes in each condition group.
    """

    name = "mlp"
    scalar = True
    Settings = MLPSettings

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

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        del shape, classes, asked
        chosen: dict[str, Any] = {"width": 128, "depth": 3, **preset}
        return {name: chosen[name] for name in cls.Settings.names()}

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        del settings, classes
        if len(shape) != 1:
            raise ConfigError(
                f"the network {cls.name} is for vectors, not for data of shape {shape}", hint="`network=unet`"
            )

    @classmethod
    def describe(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> dict[str, Any]:
        return {
            "name": cls.name, "dim": shape[0], "width": settings.width, "depth": settings.depth,
            "classes": list(classes),
        }  # fmt: skip
