"""The interface of what is specific to a kind of data: how its values become data of unit variance, and back.

Every method works on data of mean 0 and standard deviation 1. Images are in [0, 1] and rows of a table are in the units
of their columns. Only the classes of this interface convert between them, and everything else asks them about units,
discrete values and the volume of a cell.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vpfb_core.errors import ConfigError

Draw = Callable[[], Tensor]  # draws from the uniform distribution on (-½, ½), like the values of a batch

Values = Tensor | np.ndarray  # data as people give them

EXACT_DIMENSION = 16  # up to this dimension the exact trace costs less than the probes that would replace it


class Statistics(ABC):
    """The statistics of training data, with the conversion to unit variance.

    "Values" are data in the units of the public interface, (N, *shape).

    Attributes:
        kind: the kind of the data, "images" or "table".
        noun: what several data are called in messages.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]

    @abstractmethod
    def standardise(self, values: Tensor, device: torch.device | None = None) -> Tensor:
        """Data of mean 0 and standard deviation 1, float32 on a device (None: that of the values)."""

    @abstractmethod
    def restore(self, z: Tensor) -> Tensor:
        """Values from standardised data z (…, *shape), such as an image file or a table contains."""

    @abstractmethod
    def unrounded(self, z: Tensor) -> Tensor:
        """Values as of `restore`, but without rounding and without limits, as an affine function of z."""

    @abstractmethod
    def public(self, values: Tensor) -> Tensor:
        """The values in the form of `restore`."""

    @abstractmethod
    def stored(self, values: Tensor) -> Tensor:
        """The values in the form in which files contain them."""

    @abstractmethod
    def dequantise(self, values: Tensor, seed: int, first: int = 0) -> Tensor:
        """Values on the CPU in which each discrete one is drawn uniformly from its cell, so that they have a density.

        Args:
            values: the values.
            seed: the seed of the draws, which for datum i depend only on (seed, i).
            first: the index of the first datum.
        """

    @abstractmethod
    def for_training(self, values: Tensor, draw: Draw) -> Tensor:
        """The values that are learned.

        Args:
            values: the values.
            draw: called for the draws of discrete values, if they are learned as values of a cell.
        """

    @property
    @abstractmethod
    def learned_width(self) -> float:
        """The standard deviation of the draws of `dequantise` that training does not see, in standardised data."""

    @abstractmethod
    def log_volume(self, shape: tuple[int, ...]) -> float:
        """log |dz/d values|, which is added to a log-density of standardised data for one of the values."""

    @property
    def exact_dimension(self) -> int:
        """The dimension up to which the divergence of a flow is computed exactly."""
        return EXACT_DIMENSION

    @abstractmethod
    def features(self, values: Tensor) -> Tensor:
        """The values as vectors whose distances can be compared, (N, F)."""

    @property
    @abstractmethod
    def unit(self) -> tuple[float, str]:
        """The size of a standardised deviation of 1 in the unit in which blur is reported, and the name of the unit."""

    @abstractmethod
    def require(self, values: Tensor, shape: tuple[int, ...]) -> None:
        """Raise ConfigError if these are not values of data of this shape. The message says what is expected."""

    @abstractmethod
    def require_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if the statistics belong to data of another shape."""

    @abstractmethod
    def reading(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The options of `LoadOptions` that read other data like those of these statistics."""

    @abstractmethod
    def reading_in_words(self, shape: tuple[int, ...]) -> str:
        """How other data are brought into the form of these statistics, for reports."""

    def class_reading(self, groups: Sequence[str]) -> dict[str, Any]:
        """The options of `LoadOptions` that read the classes of other data.

        Args:
            groups: the names of the condition groups.
        """
        del groups
        return {"conditional": True}

    def facts(self) -> dict[str, Any]:
        """What `vpfb info` says about the data beside their shape, as JSON values by name."""
        return {}

    @abstractmethod
    def distance(self, other: Statistics) -> float:
        """The largest difference of means and deviations, relative to the deviations; infinite for other data."""

    @abstractmethod
    def in_words(self) -> str:
        """Mean and standard deviation for a message."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `from_dict` returns these statistics."""

    @classmethod
    @abstractmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Statistics:
        """The statistics that `to_dict` described."""


def tensor_of(values: Values, noun: str) -> Tensor:
    """Values that people give, as a tensor, which shares the memory of a writable array.

    Args:
        values: a tensor, or an array of numbers.
        noun: what the values are called in messages.
    Raises:
        ConfigError: they are something else.
    """
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray):
        raise ConfigError(f"{noun} of type {type(values).__name__}", hint="expected a tensor or a NumPy array")
    try:
        return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError as error:  # such as texts
        raise ConfigError(f"{noun} have dtype {values.dtype}", hint="expected numbers") from error


@functools.cache  # a copy to the device at every step would wait for it
def as_tensor(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values as a tensor, which every call with the same arguments shares."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
