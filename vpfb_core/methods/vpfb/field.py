"""The field of VPFB, which offers a potential to the rest of vpfb at noise levels instead of angles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.methods.fields import Calibration
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import DEFAULT_ANGLES, AngleDistribution
from vpfb_core.methods.path.arc import ArcPosition
from vpfb_core.methods.path.path_field import PathField
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.methods.vpfb.potential import Potential

# The lowest level of chains before calibration, which measures it for each model (`chain_levels.py`). It is right for
# the models of benchmarks/precision.py.
LEAST_FOR_CHAINS = 0.02


class PotentialField(PathField):
    """A potential as a field, with an energy and a flow.

    Args:
        potential: the potential N of a network, with its schedule.
        angles: the distribution of the angles in training.
        has_null: whether the unconditional potential is trained.
    """

    optional = ("potential.gauge.",)

    def __init__(
        self, potential: Potential, angles: AngleDistribution = DEFAULT_ANGLES, *, has_null: bool = True
    ) -> None:
        super().__init__()
        self.potential = potential
        self.angles = angles
        self.has_null = has_null
        self._lowest_for_chains = LEAST_FOR_CHAINS

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
        return Levels(arc.level(start), arc.level(end), lowest_for_chains=self._lowest_for_chains)

    def use_calibration(self, calibration: Calibration) -> None:
        if isinstance(calibration, Normaliser) and calibration.lowest_for_chains is not None:
            self._lowest_for_chains = calibration.lowest_for_chains

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, position = x.detach(), ArcPosition.at_level(level)
        value, gradient = self._arc(x, position, condition)
        return position.energy(x, value), position.score(x, gradient)

    def energy_score_and_velocity(
        self, x: Tensor, level: float, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, position = x.detach(), ArcPosition.at_level(level)
        value, gradient = self._arc(x, position, condition)
        return position.energy(x, value), position.score(x, gradient), gradient

    def energy(self, x: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        x, position = x.detach(), ArcPosition.at_level(level)
        with torch.no_grad():
            value = self.potential.potential(x, x.new_full((len(x),), position.angle), condition)
        return position.energy(x, value)

    def _arc(self, x: Tensor, position: ArcPosition, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            field = self.potential.arc(x, x.new_full((len(x),), position.angle), condition)
        return field.value, field.gradient

    # --- the flow -----------------------------------------------------------------------------------------------------

    @property
    def span(self) -> tuple[float, float]:
        return self.potential.angle_range

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.potential.arc(x, s, condition).gradient

    def compile(self, *args: Any, **settings: Any) -> None:
        self.potential.compile(*args, **settings)
