"""Models whose out-of-distribution scores are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import vpfb_model
from torch import Tensor, nn

from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

SHAPE = (1, 2, 2)


class Function(nn.Module):
    """A network that is the function N(u (N, d), φ) itself."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.function(u.flatten(1), angle)


def gaussian(u: Tensor, angle: Tensor) -> Tensor:
    """N of data N(0, I): nothing over the Gaussian part."""
    return 0 * u.sum(1)


def turning(u: Tensor, angle: Tensor) -> Tensor:
    """N whose gradient is the same everywhere, of length 1, and turns with φ."""
    return torch.cos(angle) * u[:, 0] + torch.sin(angle) * u[:, 1]


def model_of(
    function: Callable[[Tensor, Tensor], Tensor] = gaussian, shape: tuple[int, int, int] = SHAPE, floor: float = 0.01
) -> Model:
    """The model of data of mean 0.5 and deviation 0.1 whose network is this function."""
    potential = Potential(Function(function), OT(sigma_min=floor), 0.5)
    return vpfb_model(potential, statistics=ImageStatistics((0.5,) * shape[0], 0.1), shape=shape)


def count_evaluations(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often energies are evaluated from now on, by the name of the method of the field."""
    counts: Counter[str] = Counter()

    def counted(name: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(*given: Any) -> Any:
            counts[name] += 1
            return honest(*given)

        return evaluate

    for name in ("energy", "energy_and_score"):
        monkeypatch.setattr(PotentialField, name, counted(name, getattr(PotentialField, name)))
    return counts


def images_of(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """z ~ N(0, I) as images, for statistics of mean 0.5 and deviation 0.1; float."""
    return 0.5 + 0.1 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def unit(level: float) -> float:
    """sin φ of cot φ."""
    return math.sin(math.atan2(1, level))
