"""Guidance: a condition stated more strongly than the data state it.

Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) mixes the conditional and the unconditional field as
F_∅ + W (F_c − F_∅). Energies, scores and velocities are mixed alike, so that guidance keeps an energy: at every level
the density of the chains is ρ_∅ (ρ_c/ρ_∅)^W up to a constant, and the Metropolis test holds. W = 1 is the condition
itself, W = 0 the unconditional field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError


@dataclass(frozen=True)
class Guided:
    """A field whose condition has a weight; each call costs two evaluations, or one where there is nothing to guide.

    Attributes:
        field: with an energy, a flow, or both.
        weight: W; None or 1 is the field itself.
    """

    field: Any
    weight: float | None = None

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        """The velocity of the flow at positions s (N,), like x; condition (N, G) or None."""
        if self._is_plain(condition):
            return self.field.velocity(x, s, condition)
        return self._mixed(self.field.velocity(torch.cat([x, x]), torch.cat([s, s]), _with_null(condition)))

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As in `Field.energy_and_score`."""
        if self._is_plain(condition):
            return self.field.energy_and_score(x, level, condition)
        energy, score = self.field.energy_and_score(torch.cat([x, x]), level, _with_null(condition))
        return self._mixed(energy), self._mixed(score)

    def _is_plain(self, condition: Tensor | None) -> bool:
        return self.weight is None or self.weight == 1 or condition is None

    def _mixed(self, both: Tensor) -> Tensor:
        assert self.weight is not None
        conditional, free = both.chunk(2)
        return free + self.weight * (conditional - free)


def _with_null(condition: Tensor | None) -> Tensor:
    assert condition is not None
    return torch.cat([condition, torch.full_like(condition, -1)])


def check_guidance(guidance: float | None, groups: Sequence[object]) -> None:
    """Whether a model with these condition groups can be guided by this weight.

    Raises:
        ConfigError: it is not finite, or the model is unconditional.
    """
    if guidance is not None and not math.isfinite(guidance):
        raise ConfigError(f"guidance {guidance} is not a finite number", hint="1 is the class itself; try 2")
    if guidance is not None and not groups:
        raise ConfigError(
            f"guidance {guidance:g}: this model is unconditional, so there is nothing to guide it towards",
            hint="train one with vpfb train --conditional",
        )
