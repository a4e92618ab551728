"""Classifier-free guidance of energies, scores and velocities (Ho and Salimans 2022, arXiv 2207.12598).

Guidance with weight W mixes the conditional and the unconditional field as F_∅ + W (F_c − F_∅). W = 1 is the
conditional field, and W = 0 is the unconditional field. Energies, scores and velocities are mixed in the same way, so
that a guided field has an energy: at every level its density is ρ_∅ (ρ_c/ρ_∅)^W up to a constant, and the Metropolis
test of MALA remains exact for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.settings import number


@dataclass(frozen=True)
class Guided:
    """A field with a guidance weight.

    A call costs `cost` evaluations of the field.

    Attributes:
        field: a field with an energy, a flow, or both.
        weight: the guidance weight W; None or 1 is the conditional field itself.
    """

    field: Any
    weight: float | None = None

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        """The velocity of the flow. Arguments are those of `Transports.velocity`."""
        if self._is_plain(condition):
            return self.field.velocity(x, s, condition)
        return self._mixed(self.field.velocity(torch.cat([x, x]), torch.cat([s, s]), _with_null(condition)))

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The energy and the score. Arguments and shapes are those of `Field.energy_and_score`."""
        if self._is_plain(condition):
            return self.field.energy_and_score(x, level, condition)
        energy, score = self.field.energy_and_score(torch.cat([x, x]), level, _with_null(condition))
        return self._mixed(energy), self._mixed(score)

    def cost(self, condition: Tensor | None) -> int:
        """The evaluations of the field per sample in a call: two, or one without guidance or without a condition."""
        return 1 if self._is_plain(condition) else 2

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
    """Raise ConfigError unless a model with these condition groups can use this guidance weight.

    Raises:
        ConfigError: the weight is not a finite number, or the model is unconditional.
    """
    if guidance is not None and not math.isfinite(number("guidance", guidance)):
        raise ConfigError(f"guidance {guidance} is not a finite number", hint="1 is no guidance; try 2")
    if guidance is not None and not groups:
        raise ConfigError(
            f"guidance {guidance:g} needs a class, but this model is unconditional",
            hint="train a model with vpfb train --conditional",
        )
