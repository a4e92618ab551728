"""A trained model, as a model file contains it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from dataclasses import field as member
from typing import Any, Self

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.source import ConditionGroup, Source
from vpfb_core.data.splits import split
from vpfb_core.data.statistics import Statistics, Values, tensor_of
from vpfb_core.errors import ConfigError
from vpfb_core.methods.base import Method
from vpfb_core.methods.fields import Calibration, Field
from vpfb_core.methods.step import DataShape
from vpfb_core.model.description import setting_of
from vpfb_core.model.reference import Reference
from vpfb_core.model.tilt import Tilt

DEFAULT_BATCH = 256  # the default number of data that are computed at once


@dataclass(eq=False, repr=False)
class TrainedModel:
    """A trained model with everything that inference needs.

    Attributes:
        method: the method with the settings of the training.
        field: the trained field, whose parameters require no gradients.
        network: the description of its network for `networks.build`.
        statistics: how the values of the data become data of unit variance, and back.
        shape: the shape of a datum, (C, H, W) for images.
        groups: the condition groups; () for an unconditional model.
        about: facts about the training (data, step, seed, figures, versions, ...), as JSON values.
        calibration: the constants that turn energies into densities; None before they are estimated.
        reference: the reference of the out-of-distribution scores, for the model without its tilt; None before it is
            fitted.
        tilt: what changes the samples, see `with_tilt`; None if nothing does.
        base: the model without its tilt; None without a tilt.
    """

    method: Method
    field: Field
    network: dict[str, Any]
    statistics: Statistics
    shape: tuple[int, ...]
    groups: tuple[ConditionGroup, ...] = ()
    about: dict[str, Any] = member(default_factory=dict)
    calibration: Calibration | None = None
    reference: Reference | None = None
    tilt: Tilt | None = None
    base: TrainedModel | None = member(default=None, repr=False)

    def __post_init__(self) -> None:
        self.take_calibration(self.calibration)

    def __repr__(self) -> str:
        about = {
            "method": self.method.name, "shape": tuple(self.shape),
            "classes": {group.name: group.classes for group in self.groups}, "parameters": self.parameter_count,
            "step": self.about.get("step"), "calibrated": self.calibration is not None, "device": str(self.device),
        }  # fmt: skip
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in about.items())})"

    def take_calibration(self, calibration: Calibration | None) -> None:
        """Set the calibration of the model, in place."""
        self.calibration = calibration
        if calibration is not None:
            self.field.use_calibration(calibration)

    @property
    def untilted(self) -> TrainedModel:
        """The model without its tilt."""
        return self.base or self

    def with_tilt(self, tilt: Tilt | None) -> Self:
        """The model with a tilt in place of its own. Its field and its calibration are those of the tilted densities.

        Args:
            tilt: the tilt, fitted to the model without a tilt; None removes the tilt of the model.
        Raises:
            ConfigError: the tilt has a direction, and the method cannot follow it.
        """
        base = self.untilted
        if tilt is None:
            return replace(self, **{each.name: getattr(base, each.name) for each in fields(base)})
        field, calibration = base.field, base.calibration
        if tilt.shifts:
            self.require("tilt", "the tilt of the model")
            tilted = self.method.tilted(base.field, tilt.direction)
            field = tilted.to(base.device).eval().requires_grad_(False)
            if calibration is not None:
                known = tilt.log_partitions
                calibration = self.method.tilted_calibration(calibration, known) if known else None
        return replace(self, field=field, calibration=calibration, tilt=tilt, base=base)

    @property
    def device(self) -> torch.device:
        """The device of the field."""
        return next(self.field.parameters()).device

    @property
    def parameter_count(self) -> int:
        """The number of parameters."""
        return sum(parameter.numel() for parameter in self.field.parameters())

    @property
    def data_shape(self) -> DataShape:
        """The shape of the data and the numbers of classes."""
        return DataShape.of(self.shape, self.groups)

    @property
    def at_one_level(self) -> bool:
        """Whether the field has an energy at one noise level only, so that no use of it needs a ladder of levels."""
        return self.field.levels is not None and self.field.levels.single

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `LoadOptions` that read other data as the model needs them."""
        return self.statistics.reading(tuple(self.shape))

    @property
    def class_reading(self) -> dict[str, Any]:
        """The options of `LoadOptions` that read the classes of other data, if the model has classes."""
        return self.statistics.class_reading([group.name for group in self.groups]) if self.groups else {}

    def standardise(self, values: Values) -> Tensor:
        """Data of mean 0 and variance 1 on the model's device, from images (N, C, H, W) or rows (N, d).

        Images are uint8 or in [0, 1], and rows are in the units of their columns.

        Raises:
            ConfigError: the values have another shape, dtype or range.
        """
        return self.statistics.standardise(self.checked(values), self.device)

    def checked(self, values: Values) -> Tensor:
        """The values as a tensor, after a check that they have the shape, dtype and range of the training data.

        Raises:
            ConfigError: they have not. It says what was found and what is expected.
        """
        found = tensor_of(values, self.statistics.noun)
        self.statistics.require(found, tuple(self.shape))
        return found

    def split_of(self, source: Source) -> tuple[Tensor, Tensor] | None:
        """The rows of the training and the validation data in a source.

        None if the source is not the data that the model was trained on, as its fingerprint shows.
        """
        if source.fingerprint() != self.about.get("data", {}).get("fingerprint") or "config" not in self.about:
            return None
        val_fraction = float(setting_of(self.about["config"], "data", "val_fraction"))
        return split(source, val_fraction, self.about.get("seed", 0))

    def require(self, capability: str, use: str) -> None:
        """Raise ConfigError if the method of the model lacks a capability. Arguments are those of `methods.require`."""
        methods.require(capability, self.method.name, use)

    def require_null(self, use: str) -> None:
        """Raise ConfigError if the unconditional field was not trained.

        Args:
            use: what needs the unconditional field, as the subject of a sentence.
        Raises:
            ConfigError: the model was trained with condition_dropout = 0.
        """
        if not self.field.has_null:
            raise ConfigError(
                f"{use} needs the unconditional model, which was not trained (condition_dropout = 0)",
                hint="name a class, or train with `condition_dropout=0.1`",
            )
