"""The field of VPFB: what everything outside reads from a potential, at noise levels instead of angles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.methods.base import Field
from vpfb_core.methods.vpfb import arc
from vpfb_core.methods.vpfb.arc import Place
from vpfb_core.methods.vpfb.objectives import DEFAULT_ANGLES, AngleDistribution
from vpfb_core.methods.vpfb.potential import Potential


class PotentialField(Field):
    """A potential as a field: points are u on the arc, of unit variance at every level; positions are angles φ.

    Args:
        potential: N over a network, with its schedule.
        angles: where training draws.
        has_null: whether the unconditional potential is trained.
    """

    def __init__(
        self, potential: Potential, angles: AngleDistribution = DEFAULT_ANGLES, *, has_null: bool = True
    ) -> None:
        super().__init__()
        self.potential = potential
        self.angles = angles
        self.has_null = has_null

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        return self.potential.network

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return self.potential.autocast_dtype

    @autocast_dtype.setter
    def autocast_dtype(self, dtype: torch.dtype | None) -> None:
        self.potential.autocast_dtype = dtype

    @property
    def levels(self) -> Levels:  # type: ignore[override]
        start, end = self.potential.angle_range
        return Levels(arc.level(start), arc.level(end))

    def scales(self, level: float) -> tuple[float, float]:
        place = Place.at_level(level)
        return place.sine, place.cosine

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, place = x.detach(), Place.at_level(level)
        value, gradient = self._arc(x, place, condition)
        return place.energy(x, value), place.score(x, gradient)

    def energy_and_velocity(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, place = x.detach(), Place.at_level(level)
        value, gradient = self._arc(x, place, condition)
        return place.energy(x, value), gradient

    def energy(self, x: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        x, place = x.detach(), Place.at_level(level)
        with torch.no_grad():
            value = self.potential.potential(x, x.new_full((len(x),), place.angle), condition)
        return place.energy(x, value)

    def _arc(self, x: Tensor, place: Place, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.potential.arc(x, x.new_full((len(x),), place.angle), condition)

    # --- the flow -----------------------------------------------------------------------------------------------------

    @property
    def span(self) -> tuple[float, float]:
        return self.potential.angle_range

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.potential.arc(x, s, condition).gradient

    def position(self, level: float) -> float:
        return arc.angle(level)

    def level(self, position: float) -> float:
        return arc.level(position)

    def grid(self, start: float, end: float, steps: int) -> list[float]:
        return arc.grid(start, end, steps)

    def compile(self, *args: Any, **settings: Any) -> None:
        self.potential.compile(*args, **settings)
