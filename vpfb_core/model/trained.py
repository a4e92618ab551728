"""A trained model, as a model file contains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import field as member
from typing import Any

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.source import ConditionGroup, Source
from vpfb_core.data.splits import split
from vpfb_core.data.statistics import Statistics
from vpfb_core.errors import ConfigError
from vpfb_core.methods.base import Calibration, DataShape, Field, Method
from vpfb_core.model.reference import Reference

DEFAULT_BATCH = 256  # the default number of data that are computed at once
EXPECTED_IMAGES = "images are uint8 in 0 to 255, or floats in 0 to 1"
_TOLERANCE = 0.501 / 255  # half a grey level, and some rounding


@dataclass
class TrainedModel:
    """A trained model with everything that inference needs.

    Attributes:
        method: the method with the settings of the training.
        field: the trained field, whose parameters require no gradients.
        network: the description of its network for `networks.build`.
        statistics: the mean and the standard deviation of the training data.
        shape: the shape of a datum, (C, H, W) for images.
        groups: the condition groups; () for an unconditional model.
        about: facts about the training (data, step, seed, figures, versions, ...), as JSON values.
        calibration: the constants that turn energies into densities; None before they are estimated.
        reference: the reference of the out-of-distribution scores; None before it is fitted.
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
        return DataShape(tuple(self.shape), tuple(len(group.classes) for group in self.groups))

    def standardise(self, images: Tensor) -> Tensor:
        """Data of mean 0 and variance 1 on the model's device, from images (N, C, H, W), uint8 or in [0, 1].

        Raises:
            ConfigError: the images have another shape, dtype or range.
        """
        self.require_images(images)
        return self.statistics.standardise(images.to(self.device))

    def require_images(self, images: Tensor) -> None:
        """Refuse images of another shape, dtype or range than (N, C, H, W), uint8 or in [0, 1].

        Values up to half a grey level outside [0, 1] are accepted, since dequantised images have them.

        Raises:
            ConfigError: it says what was found and what is expected.
        """
        if images.ndim != 1 + len(self.shape) or tuple(images.shape[1:]) != tuple(self.shape):
            raise ConfigError(
                f"images of shape {tuple(images.shape[1:])} do not fit a model of {tuple(self.shape)}",
                hint="the shape is (channels, height, width)",
            )
        if images.dtype == torch.uint8 or not images.numel():
            return
        if not images.is_floating_point():
            raise ConfigError(f"images have dtype {images.dtype}", hint=EXPECTED_IMAGES)
        lowest, highest = (float(extreme) for extreme in images.aminmax())  # NaN if there is one among the values
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ConfigError("images contain values that are NaN or infinite", hint=EXPECTED_IMAGES)
        if lowest < -_TOLERANCE or highest > 1 + _TOLERANCE:
            raise ConfigError(
                f"images of dtype {images.dtype} have values from {lowest:g} to {highest:g}", hint=EXPECTED_IMAGES
            )

    def split_of(self, source: Source) -> tuple[Tensor, Tensor] | None:
        """The rows of the training and the validation data in a source.

        None if the source is not the data that the model was trained on, as its fingerprint shows.
        """
        if source.fingerprint() != self.about.get("data", {}).get("fingerprint") or "config" not in self.about:
            return None
        return split(source, val_fraction_of(self.about["config"]), self.about.get("seed", 0))

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
                hint="name a class, or train with --set condition_dropout=0.1",
            )


def val_fraction_of(config: dict[str, Any]) -> float:
    """The share of validation data, from the configuration in a model file, with sections or without."""
    section = config.get("data")
    return float(section["val_fraction"] if isinstance(section, dict) else config["val_fraction"])
