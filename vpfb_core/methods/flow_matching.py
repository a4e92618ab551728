"""Flow matching: a velocity network without a potential, the baseline of comparisons.

The method is that of Lipman et al. 2023 (arXiv 2210.02747) on the path of VPFB: the network f(u, φ) is regressed on the
conditional velocity y at u. Its flow samples, encodes and has a likelihood, but the field has no energy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.per_sample import mean_squared_error
from vpfb_core.errors import ConfigError
from vpfb_core.machine.precision import run_in
from vpfb_core.methods.base import Method
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import Part, ValidationPoints, draw_pairs
from vpfb_core.methods.path.path_field import PathField
from vpfb_core.methods.path.path_settings import PathSettings, path_defaults
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation


class VelocityField(PathField):
    """A field whose network returns the velocity at points of the path.

    Args:
        network: maps (x (N, …), s (N,), condition (N, G) or None) to the shape of x.
        settings: the settings of the path.
        has_null: whether the unconditional velocity is trained.
    """

    def __init__(self, network: nn.Module, settings: PathSettings, *, has_null: bool = True) -> None:
        super().__init__()
        self.network = network
        self.span = settings.homotopy.angle_range(settings.data_std)
        self.angles: AngleDistribution = settings.angles
        self.has_null = has_null

    def forward(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        answer = run_in(self.autocast_dtype, self.network, x, s, condition)
        if answer.shape != x.shape:
            raise ConfigError(
                f"flow matching needs a network whose output has the shape of its input, {tuple(x.shape[1:])} per "
                f"sample, not {tuple(answer.shape[1:])}",
                hint="use another network, such as unet",
            )
        return answer

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        velocity: Tensor = self(x, s, condition)
        return velocity


class FlowMatching(Method):
    """Flow matching with a velocity network."""

    name: ClassVar[str] = "flow-matching"
    Settings = PathSettings
    settings: PathSettings
    trains_scalars: ClassVar[bool] = False
    faster_compiled: ClassVar[bool] = True

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        return super().defaults(data, asked) | path_defaults(data)

    def check(self, data: DataShape, *, scalar: bool, decay: float, processes: int) -> None:
        del decay, processes
        self.settings.require_angles()
        if scalar:
            raise ConfigError(
                "flow matching needs a network whose output has the shape of its input, not one number per sample",
                hint=f"`network={'unet' if len(data.shape) == 3 else 'vector-mlp'}`",
            )

    @property
    def compilable(self) -> bool:
        return True

    def field(self, network: nn.Module, data: DataShape) -> VelocityField:
        return VelocityField(network, self.settings, has_null=self.trains_null(data))

    def losses(self, field: VelocityField, batch: Batch, at: Moment) -> Iterable[Loss]:
        """The mean of ‖f(u, φ) − y‖²/d, where each datum occurs with ε and with −ε."""

        def mean(rows: slice) -> Tensor:
            data, condition = batch.rows(rows)
            part = Part(batch.first + rows.start, batch.total)
            pairs = draw_pairs(data, condition, field.span, at.generator("step"), field.angles, part)
            return squared_error(field, pairs.data, pairs.angle, pairs.noise, pairs.condition).mean()

        yield Loss("flow-matching", mean)

    def held_out(self, field: VelocityField, data: Validation) -> dict[str, Tensor]:
        """The `residual` ‖f − y‖²/d of each datum at the angles of training, comparable with that of VPFB."""
        points = ValidationPoints.of(field.span, field.angles, data)
        with torch.no_grad():
            return {"residual": squared_error(field, points.data, points.angle, points.noise, points.condition)}


def squared_error(field: VelocityField, z: Tensor, angle: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
    """‖f(u, φ) − y‖²/d for each sample, (N,). Arguments are those of `arc.point`, and the condition."""
    u, y = arc.point(z, angle, noise)
    return mean_squared_error(field(u, angle, condition), y)
