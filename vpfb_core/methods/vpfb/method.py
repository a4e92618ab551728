"""Variational Potential Flow Bayes as a training method (Loo et al. 2025, arXiv 2504.16262)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpfb_core import names
from vpfb_core.errors import ConfigError
from vpfb_core.methods.base import Method
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import Part, ValidationPoints
from vpfb_core.methods.path.path_settings import PathSettings, path_defaults
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.methods.vpfb import chain_levels, estimation
from vpfb_core.methods.vpfb.contrast import contrast
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.gauge import Gauge
from vpfb_core.methods.vpfb.normaliser import Normaliser, levels
from vpfb_core.methods.vpfb.objectives import NEEDS_SHAPE, OBJECTIVES, Objective, regression, residual
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.methods.vpfb.tilted import TiltedPotential
from vpfb_core.methods.vpfb.time_score import stein_and_time_score
from vpfb_core.settings import setting

# The least share of the weight of the time score. It trains the gauge from the beginning, and hardly the network.
LEAST_RAMP = 1e-3
# The default share of the angles of images that is uniform in ℓ. The others are near the noise, where the layout of an
# image is decided; without this share, energies near the data are less accurate.
UNIFORM_ANGLES = 0.1
# The default weight of the contrast is the first number, and in more dimensions the second one divided by their number:
# energies grow with the dimension, and the other losses do not.
CONTRAST, CONTRAST_OVER_DIMENSION = 0.04, 2.6


@dataclass(frozen=True)
class VPFBSettings(PathSettings):
    """The settings of the path and of the losses."""

    objective: str = setting("stein", help="Loss function.", choices=names.OBJECTIVES)
    contrast: float | None = setting(
        None, help="Weight of the contrast between classes, once the learning rate has fallen.", low=0, high=100
    )
    mixture: bool | None = setting(
        None, help="Whether the contrast also trains the density without a class to be the mixture of the classes."
    )
    time_score: float | None = setting(
        None, help="Weight of the time score of energies, once the learning rate has fallen.", low=0, high=100
    )
    uniform_angles: float | None = setting(
        None, help="Share of the training angles that is uniform in the log signal-to-noise ratio.", low=0, high=0.9
    )
    regression_share: float | None = setting(
        None, help="Share of the run, at its beginning, that regresses the network's output instead.", low=0, high=0.9
    )

    @property
    def angles(self) -> AngleDistribution:
        return replace(super().angles, uniform=self.uniform_angles or 0.0)


class VPFB(Method):
    """Training of one potential, whose gradient is the velocity of a flow and whose value gives an energy."""

    name: ClassVar[str] = "vpfb"
    faster_compiled: ClassVar[bool] = True
    Settings = VPFBSettings
    settings: VPFBSettings

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        contrasted = data.classes and asked.get("decay", 1) and asked.get("objective") != "official"
        chosen = super().defaults(data, asked) | path_defaults(data)
        return chosen | {
            "contrast": min(CONTRAST, CONTRAST_OVER_DIMENSION / data.dimension) if contrasted else 0.0,
            "mixture": bool(contrasted),
            "time_score": 0.0,
            "uniform_angles": UNIFORM_ANGLES if len(data.shape) == 3 else 0.0,
            "regression_share": 0.0,
        }

    @classmethod
    def added_settings(cls) -> dict[str, Any]:
        return {"mixture": False, "time_score": 0.0, "uniform_angles": 0.0, "regression_share": 0.0}

    def check(self, data: DataShape, *, scalar: bool, decay: float, processes: int) -> None:
        settings = self.settings
        settings.require_angles()
        if settings.objective == "official" and scalar:
            raise ConfigError(
                "the official objective needs a network whose output has the shape of its input",
                hint="`objective=stein`",
            )
        if settings.objective == "official" and settings.schedule != "ot":
            raise ConfigError("the official objective is defined for the schedule ot only", hint="`schedule=ot`")
        if settings.objective == "official" and processes > 1:
            raise ConfigError(
                "the official objective uses statistics of the whole batch, which therefore cannot be divided",
                hint="train in one process",
            )
        if settings.contrast and not data.classes:
            raise ConfigError("contrast compares classes, and this run has none", hint="use `conditional`")
        if settings.contrast and not decay:
            raise ConfigError(
                "contrast begins while the learning rate falls, which it does not with decay=0",
                hint="`contrast=0`",
            )
        if settings.time_score and settings.objective != "stein":
            raise ConfigError(
                f"the time score is trained beside the objective stein, not {settings.objective}",
                hint="`time_score=0`",
            )
        if settings.time_score and not decay:
            raise ConfigError(
                "the time score begins while the learning rate falls, which it does not with decay=0",
                hint="`time_score=0`",
            )
        if settings.regression_share and settings.objective == "official":
            raise ConfigError(
                "the regression is for the head of this method, which the official objective does not have",
                hint="`regression_share=0`",
            )
        if settings.regression_share and scalar:
            raise ConfigError(NEEDS_SHAPE, hint="`regression_share=0`")

    def notes(self) -> tuple[str, ...]:
        share = self.settings.regression_share
        if not share:
            return ()
        return (f"the first {100 * share:g}% of the run regress the output of the network, without usable samples",)

    def phase(self, fraction: float) -> int:
        return int(0 < (self.settings.regression_share or 0.0) <= fraction)

    @property
    def divisible(self) -> bool:
        return self.settings.objective != "official"

    @property
    def compilable(self) -> bool:
        return self.settings.objective != "official"

    def field(self, network: nn.Module, data: DataShape) -> PotentialField:
        settings = self.settings
        kind = UnpreconditionedPotential if settings.objective == "official" else Potential
        gauge = Gauge(data.dimension, data.classes) if settings.time_score else None
        potential = kind(network, settings.homotopy, settings.data_std, gauge)
        return PotentialField(potential, settings.angles, has_null=self.trains_null(data))

    def losses(self, field: PotentialField, batch: Batch, at: Moment) -> Iterable[Loss]:
        def mean_of(objective: Objective, stream: str) -> Callable[[slice], Tensor]:
            def mean(rows: slice) -> Tensor:
                data, condition = batch.rows(rows)
                return objective(
                    field.potential, data * self.settings.data_std, condition, generator=at.generator(stream),
                    angles=field.angles, part=Part(batch.first + rows.start, batch.total),
                )  # fmt: skip

            return mean

        def of_classes(rows: slice) -> Tensor:
            assert batch.labels is not None
            group = labelled[at.step % len(labelled)]
            return contrast(
                field.potential, batch.data[rows] * self.settings.data_std, batch.labels[rows], group=group,
                shares=batch.shares[group], mixture=self._trains_mixture(field), generator=at.generator("contrast"),
                angles=field.angles, part=Part(batch.first + rows.start, batch.total),
            )  # fmt: skip

        if at.fraction < (self.settings.regression_share or 0.0):
            yield Loss("regression", mean_of(regression, "step"))
            return
        # Both terms of energies begin when the learning rate falls. Earlier they would slow down learning to sample.
        weight = (self.settings.contrast or 0.0) * at.cooling
        labelled = [group for group, shares in enumerate(batch.shares) if len(shares)]
        if weight and labelled:
            yield Loss("contrast", of_classes, weight)
        name, time_score = self.settings.objective, self.settings.time_score
        objective = OBJECTIVES[name]
        if time_score:
            objective = partial(stein_and_time_score, weight=time_score * max(at.cooling, LEAST_RAMP))
        yield Loss(name, mean_of(objective, "step"), divisible=self.divisible)

    def held_out(self, field: PotentialField, data: Validation) -> dict[str, Tensor]:
        """The `residual` ‖∇N − y‖²/d of each datum at the angles of training; its mean is 1 for N = 0."""
        points = ValidationPoints.of(field.potential.angle_range, field.angles, data)
        with torch.no_grad():
            values = residual(
                field.potential, points.data * self.settings.data_std, points.angle, points.noise, points.condition
            )
        return {"residual": values}

    def calibrate(
        self, field: PotentialField, data: Validation, classes: Sequence[int], gradients: int | None, batch_size: int
    ) -> Normaliser | None:
        effort = 1.0 if gradients is None else min(1.0, gradients / self.calibration_cost(field, classes))
        if effort < estimation.LEAST_EFFORT:
            return None
        normaliser = estimation.calibrate(
            field.potential, data.data, data.condition, classes, seed=data.seed, batch_size=batch_size,
            shared=self._trains_mixture(field), **estimation.counts(effort),
        )  # fmt: skip
        few = slice(max(estimation.FEWEST, round(effort * chain_levels.POINTS)))
        condition = None if data.condition is None else data.condition[few]
        lowest = chain_levels.lowest_for_chains(field.potential, data.data[few], normaliser.noise, condition, data.seed)
        return replace(normaliser, lowest_for_chains=lowest)

    def calibration_cost(self, field: PotentialField, classes: Sequence[int]) -> int:
        return estimation.cost(levels(field.potential), classes, self._trains_mixture(field))

    def _trains_mixture(self, field: PotentialField) -> bool:
        """Whether the contrast makes the energies of the classes and of all data comparable."""
        return bool(self.settings.contrast and self.settings.mixture) and field.has_null

    def tilted(self, field: PotentialField, direction: Tensor) -> PotentialField:
        potential = TiltedPotential(field.potential, direction)
        return PotentialField(potential, field.angles, has_null=field.has_null)

    def tilted_calibration(
        self, calibration: Normaliser, log_partitions: Mapping[tuple[int, ...], float]
    ) -> Normaliser:
        return calibration.shifted({condition: -value for condition, value in log_partitions.items()})

    def read_calibration(self, document: Mapping[str, Any]) -> Normaliser:
        return Normaliser.from_dict(document)
