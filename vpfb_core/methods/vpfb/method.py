"""Variational Potential Flow Bayes as a training method (Loo et al. 2025, arXiv 2504.16262)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpfb_core import names
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.base import Batch, DataShape, Loss, Method, MethodSettings, Moment, Validation
from vpfb_core.methods.vpfb import estimation as calibration
from vpfb_core.methods.vpfb import homotopy
from vpfb_core.methods.vpfb.contrast import PAIR_EVERY, contrast
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.homotopy import Homotopy
from vpfb_core.methods.vpfb.normaliser import Normaliser, levels
from vpfb_core.methods.vpfb.objectives import OBJECTIVES, AngleDistribution, Objective, Part, residual
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.settings import setting

CONTRAST = 0.02  # one nat of the contrast weighs, in the end, as much as 2 % of the variance of the velocity


@dataclass(frozen=True)
class PathSettings(MethodSettings):
    """The path from noise to data, and where on it training draws."""

    schedule: str = setting("ot", help="Homotopy schedule from noise to data.", choices=names.SCHEDULES)
    floor: float | None = setting(
        None, help="Noise left at the data: sigma_min, or nu of the log-homotopy.", low=1e-6, high=0.5
    )
    data_std: float = setting(0.5, help="Standard deviation of the standardised data.", low=1e-3, high=1e3)
    angle_mean: float | None = setting(
        None, help="Mean of the log signal-to-noise ratio at which training draws.", low=-10, high=10
    )
    angle_std: float | None = setting(None, help="Standard deviation of that ratio.", low=1e-3, high=10)

    @property
    def homotopy(self) -> Homotopy:
        """The schedule."""
        parameters: dict[str, object] = {"name": self.schedule}
        if self.floor is not None:
            parameters["nu" if self.schedule == "log-homotopy" else "sigma_min"] = self.floor
        return homotopy.from_dict(parameters)

    @property
    def angles(self) -> AngleDistribution:
        """Where training draws; that of 64 dimensions where nothing is set."""
        default = AngleDistribution()
        mean = default.mean if self.angle_mean is None else self.angle_mean
        return AngleDistribution(mean, default.std if self.angle_std is None else self.angle_std)


def path_defaults(data: DataShape) -> dict[str, Any]:
    """Where training draws for data of this dimension."""
    angles = AngleDistribution.for_dimensions(data.dimension)
    return {"angle_mean": angles.mean, "angle_std": angles.std}


@dataclass(frozen=True)
class VPFBSettings(PathSettings):
    """What the potential is trained with."""

    objective: str = setting("stein", help="Loss function.", choices=names.OBJECTIVES)
    contrast: float | None = setting(
        None, help="Weight of the contrast between conditions, once the learning rate has fallen.", low=0, high=100
    )


class VPFB(Method):
    """One potential whose gradient is the flow, and whose value is the energy."""

    name: ClassVar[str] = "vpfb"
    Settings = VPFBSettings
    settings: VPFBSettings

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        contrasted = data.classes and asked.get("decay", 1) and asked.get("objective") != "official"
        chosen = super().defaults(data, asked) | path_defaults(data)
        return chosen | {"contrast": CONTRAST if contrasted else 0.0}

    def check(self, data: DataShape, *, decay: float, processes: int) -> None:
        settings = self.settings
        if settings.objective == "official" and settings.schedule != "ot":
            raise ConfigError("the official objective is defined for the schedule ot only", hint="--schedule ot")
        if settings.objective == "official" and processes > 1:
            raise ConfigError(
                "the official objective takes its statistics over the whole batch, which cannot be divided",
                hint="train in one process",
            )
        if settings.contrast and not data.classes:
            raise ConfigError("contrast compares classes, and this run has none", hint="use --conditional")
        if settings.contrast and not decay:
            raise ConfigError(
                "contrast begins while the learning rate falls, which it does not with decay=0",
                hint="--set contrast=0",
            )

    @property
    def divisible(self) -> bool:
        return self.settings.objective != "official"

    @property
    def compilable(self) -> bool:
        return self.settings.objective != "official"

    def field(self, network: nn.Module, data: DataShape) -> PotentialField:
        settings = self.settings
        kind = UnpreconditionedPotential if settings.objective == "official" else Potential
        potential = kind(network, settings.homotopy, settings.data_std)
        return PotentialField(potential, settings.angles, has_null=not data.classes or settings.condition_dropout != 0)

    def losses(self, field: PotentialField, batch: Batch, at: Moment) -> Iterable[Loss]:
        def mean_of(objective: Objective, stream: str) -> Callable[[slice], Tensor]:
            def mean(rows: slice) -> Tensor:
                data, condition = batch.rows(rows)
                return objective(
                    field.potential, data * self.settings.data_std, condition, generator=at.generator(stream),
                    angles=field.angles, part=Part(batch.first + rows.start, batch.total),
                )  # fmt: skip

            return mean

        # The contrast sets in while the learning rate falls. Earlier, it slows down learning to draw.
        weight = (self.settings.contrast or 0.0) * at.cooling
        if weight and batch.condition is not None:
            yield Loss("contrast", mean_of(contrast, "contrast"), weight, unit=PAIR_EVERY)
        objective = self.settings.objective
        yield Loss(objective, mean_of(OBJECTIVES[objective], "step"), divisible=self.divisible)

    def held_out(self, field: PotentialField, data: Validation) -> dict[str, Tensor]:
        """`residual`: E‖∇N − y‖²/d at the angles where training draws; 1 for a Gaussian potential."""
        points = PathPoints.of(field.potential.angle_range, field.angles, data)
        with torch.no_grad():
            values = residual(
                field.potential, points.data * self.settings.data_std, points.angle, points.noise, points.condition
            )
        return {"residual": values}

    def calibrate(
        self, field: PotentialField, data: Validation, classes: Sequence[int], gradients: int | None, batch_size: int
    ) -> Normaliser | None:
        effort = 1.0 if gradients is None else min(1.0, gradients / self.calibration_cost(field, classes))
        if effort < calibration.LEAST_EFFORT:
            return None
        return calibration.calibrate(
            field.potential, data.data, data.condition, classes, seed=data.seed, unconditional=field.has_null,
            batch_size=batch_size, **calibration.counts(effort),
        )  # fmt: skip

    def calibration_cost(self, field: PotentialField, classes: Sequence[int]) -> int:
        return calibration.cost(levels(field.potential), classes)

    def read_calibration(self, document: Mapping[str, Any]) -> Normaliser:
        return Normaliser.from_dict(document)

    def describe(self) -> dict[str, Any]:
        return {"schedule": self.settings.schedule}


@dataclass(frozen=True)
class PathPoints:
    """Points of the path for validation: fixed data with fixed angles and noise, so that figures can be compared."""

    data: Tensor
    condition: Tensor | None
    angle: Tensor
    noise: Tensor

    @classmethod
    def of(cls, angle_range: tuple[float, float], angles: AngleDistribution, data: Validation) -> PathPoints:
        """The points of the wanted rows; their angles stand at equal quantiles of the distribution."""
        z, count = data.data, len(data.data)
        rows = data.rows or range(count)
        # Strata in an order that has nothing to do with that of the data.
        order = torch.randperm(count, generator=noise.generator(data.seed, "held-out angles"))
        quantiles = ((order[rows.start : rows.stop] + 0.5) / count).to(z.device)
        chosen = slice(rows.start, rows.stop)
        epsilon = noise.normal(z.shape[1:], data.seed, rows, "held-out").to(z)
        condition = None if data.condition is None else data.condition[chosen]
        return cls(z[chosen], condition, angles.quantile(quantiles, angle_range), epsilon)


def settings_of(potential: Potential) -> VPFBSettings:
    """The settings that make such a potential: its schedule, and the deviation of its data.

    Raises:
        ValueError: a schedule with parameters that no setting names.
    """
    description = potential.homotopy.to_dict()
    floor = description.get("nu", description.get("sigma_min"))
    objective = "official" if isinstance(potential, UnpreconditionedPotential) else "stein"
    settings = VPFBSettings(objective=objective, schedule=description["name"], floor=floor, data_std=potential.data_std)
    if settings.homotopy != potential.homotopy:
        raise ValueError(f"no settings describe the schedule {description}")
    return settings
