"""Trained models around potentials that tests make by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.statistics import Statistics, Values
from vpfb_core.methods.fields import Calibration
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.method import VPFB, VPFBSettings
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.model.reference import Reference
from vpfb_core.model.trained import TrainedModel


def count_checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list of the numbers of images that models are asked to check, which grows with every check."""
    checked: list[int] = []
    honest = TrainedModel.checked

    def counted(model: TrainedModel, images: Values) -> Tensor:
        checked.append(len(images))
        return honest(model, images)

    monkeypatch.setattr(TrainedModel, "checked", counted)
    return checked


def vpfb_model(
    potential: Potential,
    *,
    network: Mapping[str, Any] | None = None,
    statistics: Statistics = ImageStatistics((0.5,), 0.25),
    shape: tuple[int, ...] = (1, 8, 8),
    groups: tuple[ConditionGroup, ...] = (),
    about: Mapping[str, Any] | None = None,
    normaliser: Calibration | None = None,
    reference: Reference | None = None,
    has_null: bool = True,
) -> Model:
    """A VPFB model of this potential, frozen and in evaluation mode, as if it had been trained and loaded.

    Args:
        potential: of a schedule that settings can name; it is used as it is, not copied.
        network: the description of its network; needed only to save the model.
        statistics: of the images that it stands for.
        shape: of a datum, (C, H, W).
        groups: condition groups; () for an unconditional model.
        about: what is known of its training.
        normaliser: constants of its energies; None for a model that is not calibrated.
        reference: for out-of-distribution scores.
        has_null: whether it counts as trained without a class too; False is condition_dropout = 0.
    """
    settings = settings_of(potential)
    if not has_null:
        settings = replace(settings, condition_dropout=0.0)
    field = PotentialField(potential, settings.angles, has_null=has_null).eval().requires_grad_(False)
    return Model(
        method=VPFB(settings),
        field=field,
        network=dict(network or {}),
        statistics=statistics,
        shape=shape,
        groups=groups,
        about=dict(about or {}),
        calibration=normaliser,
        reference=reference,
    )


def settings_of(potential: Potential) -> VPFBSettings:
    """The settings that describe a potential: its schedule, its objective and the standard deviation of its data.

    Raises:
        ValueError: the schedule has parameters that the settings cannot express.
    """
    description = potential.homotopy.to_dict()
    floor = description.get("nu", description.get("sigma_min"))
    objective = "official" if isinstance(potential, UnpreconditionedPotential) else "stein"
    settings = VPFBSettings(objective=objective, schedule=description["name"], floor=floor, data_std=potential.data_std)
    if settings.homotopy != potential.homotopy:
        raise ValueError(f"no settings describe the schedule {description}")
    return settings
