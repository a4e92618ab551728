"""A trained model: what a model file holds."""

from __future__ import annotations

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

DEFAULT_BATCH = 256  # data computed at once unless told otherwise


@dataclass
class TrainedModel:
    """What inference needs.

    Attributes:
        method: with the settings that the model was trained with.
        field: what was trained; its parameters take no gradients.
        network: the description of its network, as `networks.build` reads it.
        statistics: of the training data.
        shape: of a datum: (C, H, W) of an image.
        groups: condition groups; () for an unconditional model.
        about: what is worth knowing of its training (data, step, seed, figures, versions, ...), JSON values.
        calibration: constants that make its energies densities; None before they are estimated.
        reference: the training images as they are remembered for out-of-distribution scores; None before it is fitted.
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
        """Where it computes."""
        return next(self.field.parameters()).device

    @property
    def parameter_count(self) -> int:
        """How many numbers were trained."""
        return sum(parameter.numel() for parameter in self.field.parameters())

    @property
    def data_shape(self) -> DataShape:
        """What its method knows of the data."""
        return DataShape(tuple(self.shape), tuple(len(group.classes) for group in self.groups))

    def standardise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or in [0, 1] → data of mean 0 and variance 1, on the model's device."""
        if images.ndim != 1 + len(self.shape) or tuple(images.shape[1:]) != tuple(self.shape):
            raise ConfigError(
                f"images of shape {tuple(images.shape[1:])} do not fit a model of {tuple(self.shape)}",
                hint="the shape is (channels, height, width)",
            )
        return self.statistics.standardise(images.to(self.device))

    def split_of(self, source: Source) -> tuple[Tensor, Tensor] | None:
        """(trained on, held out): rows of the source, if it is the very data that the model was trained on."""
        if source.fingerprint() != self.about.get("data", {}).get("fingerprint") or "config" not in self.about:
            return None
        return split(source, val_fraction_of(self.about["config"]), self.about.get("seed", 0))

    def require(self, capability: str, use: str) -> None:
        """Refuse a use that the model's method cannot serve; arguments and errors as of `methods.require`."""
        methods.require(capability, self.method.name, use)

    def require_null(self, use: str) -> None:
        """Refuse a use that needs the unconditional field, if that was not trained.

        Raises:
            ConfigError: the model was trained with condition_dropout = 0.
        """
        if not self.field.has_null:
            raise ConfigError(
                f"{use} needs the unconditional model, which was not trained (condition_dropout = 0)",
                hint="name a class, or train with --set condition_dropout=0.1",
            )


def val_fraction_of(config: dict[str, Any]) -> float:
    """The share of the data that was held out, by the configuration in a model file, nested or flat."""
    section = config.get("data")
    return float(section["val_fraction"] if isinstance(section, dict) else config["val_fraction"])
