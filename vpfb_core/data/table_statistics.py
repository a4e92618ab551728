"""The statistics of a table of numbers: the mean and the standard deviation of each column, and its discrete steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vpfb_core.data.labelling import listed
from vpfb_core.data.statistics import Draw, Statistics, as_tensor
from vpfb_core.errors import ConfigError, DataError, counted
from vpfb_core.machine import noise
from vpfb_core.machine.precision import exact, exact_device

MOST_DISCRETE = 100  # distinct whole numbers up to which a column counts as discrete
FARTHEST = 1e15  # standard deviations from the mean up to which networks compute: float32 holds the squares of 1e19
TOO_FAR = "too far from the training data of the model to compute with"


@dataclass(frozen=True)
class TableStatistics(Statistics):
    """The mean, the standard deviation and the steps of each column. Values are rows, float64 (N, d).

    A column is discrete if it has at most `MOST_DISCRETE` different values and all of them are whole numbers. It is
    learned as values that are uniform in the cells around them, and samples are rounded to the nearest step within the
    range of the training data.

    Attributes:
        columns: the names of the columns.
        mean, std: of each column, after dequantisation.
        step: the largest number of which all differences of values are multiples, for a discrete column; else 0.
        low, high: the range of each column.
    """

    kind: ClassVar[str] = "table"
    noun: ClassVar[str] = "rows"

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    step: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, rows: Tensor, columns: Sequence[str]) -> TableStatistics:
        """The statistics of rows, float64 (N, d).

        Raises:
            DataError: a column is constant, or its values are too large or too small for their variance.
        """
        low, high = rows.amin(0), rows.amax(0)
        if constant := [name for name, one, other in zip(columns, low, high, strict=True) if one == other]:
            raise DataError(
                f"constant: {listed(constant)}; a column with a single value has no density",
                hint="leave it out: `columns` with the names of the others",
            )
        steps = torch.tensor([step_of(column) for column in rows.T], dtype=torch.float64)
        variance = rows.var(0, correction=0) + steps.square() / 12  # that of a uniform draw from the cell
        computable = variance.isfinite() & (variance >= torch.finfo(torch.float64).tiny)
        if wrong := [name for name, usable in zip(columns, computable.tolist(), strict=True) if not usable]:
            raise DataError(
                f"values too large or too small to compute with: {listed(wrong)}",
                hint="use another unit for the column, or leave it out: `columns` with the names of the others",
            )
        figures = (rows.mean(0), variance.sqrt(), steps, low, high)
        return cls(tuple(columns), *(tuple(figure.tolist()) for figure in figures))

    @property
    def discrete(self) -> tuple[str, ...]:
        """The names of the discrete columns."""
        return tuple(name for name, step in zip(self.columns, self.step, strict=True) if step)

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The lowest and the highest value of each column with which a model of these statistics can compute."""
        columns = zip(self.mean, self.std, strict=True)
        return tuple((mean - FARTHEST * std, mean + FARTHEST * std) for mean, std in columns)

    def standardise(self, values: Tensor, device: torch.device | None = None) -> Tensor:
        device = values.device if device is None else device
        values = values.to(exact_device(device), torch.float64)
        mean, std = (as_tensor(each, values.device, torch.float64) for each in (self.mean, self.std))
        return ((values - mean) / std).float().to(device)

    def restore(self, z: Tensor) -> Tensor:
        """Rows, float64 (…, d), in which discrete columns are rounded."""
        values = self.unrounded(z)
        step, low, high = (as_tensor(each, values.device, torch.float64) for each in (self.step, self.low, self.high))
        rounded = (low + ((values - low) / step.where(step > 0, 1)).round() * step).clamp(low, high)
        return torch.where(step > 0, rounded, values)

    def unrounded(self, z: Tensor) -> Tensor:
        """Rows, float64 (…, d), in which discrete columns have any value, such as points on the way from noise."""
        z = exact(z)
        mean, std = (as_tensor(each, z.device, torch.float64) for each in (self.mean, self.std))
        return z * std + mean

    def public(self, values: Tensor) -> Tensor:
        """The rows as float64."""
        return values.double()

    def stored(self, values: Tensor) -> Tensor:
        return self.public(values)

    def dequantise(self, values: Tensor, seed: int, first: int = 0) -> Tensor:
        rows = range(first, first + len(values))
        return self.for_training(values.cpu(), lambda: noise.uniform(values.shape[1:], seed, rows, "dequantisation"))

    def for_training(self, values: Tensor, draw: Draw) -> Tensor:
        """The rows, with values of discrete columns drawn uniformly from their cells."""
        if not any(self.step):
            return values
        return values.double() + draw().to(values.device).double() * as_tensor(self.step, values.device, torch.float64)

    @property
    def learned_width(self) -> float:
        return 0.0

    @property
    def exact_dimension(self) -> int:
        return 256  # networks for rows are small, and densities of rows are compared one by one

    def log_volume(self, shape: tuple[int, ...]) -> float:
        del shape
        return -sum(map(math.log, self.std))

    def features(self, values: Tensor) -> Tensor:
        """The standardised columns."""
        return self.standardise(values)

    @property
    def unit(self) -> tuple[float, str]:
        return 1.0, "standard deviations"

    def require(self, values: Tensor, shape: tuple[int, ...]) -> None:
        if values.ndim != 2 or tuple(values.shape[1:]) != tuple(shape):
            of_columns = counted(len(self.columns), "columns")
            raise ConfigError(
                f"rows of shape {tuple(values.shape)} do not fit a model of {of_columns}",
                hint=f"the shape is (N, {len(self.columns)}), with the columns {listed(self.columns)}",
            )
        if values.is_complex() or not bool(values.isfinite().all()):
            raise ConfigError("rows contain values that are NaN or infinite", hint="leave these rows out")
        if bool((self.standardise(values).abs() > FARTHEST).any()):
            raise ConfigError(f"rows contain values {TOO_FAR}", hint="leave these rows out")

    def require_shape(self, shape: tuple[int, ...]) -> None:
        if shape != (len(self.columns),):
            raise ValueError(f"data of shape {shape} do not have {len(self.columns)} columns")

    def reading(self, shape: tuple[int, ...]) -> dict[str, Any]:
        del shape
        return {"kind": self.noun, "columns": self.columns, "ranges": self.ranges}

    def reading_in_words(self, shape: tuple[int, ...]) -> str:
        del shape
        return "columns by their names"

    def class_reading(self, groups: Sequence[str]) -> dict[str, Any]:
        return {"conditional": True, "label": groups[0]}

    def facts(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "discrete": list(self.discrete)}

    def distance(self, other: Statistics) -> float:
        if not isinstance(other, TableStatistics) or self.columns != other.columns or self.step != other.step:
            return math.inf
        return max(
            max(abs(mean - its_mean), abs(std - its_std)) / max(std, its_std)
            for mean, std, its_mean, its_std in zip(self.mean, self.std, other.mean, other.std, strict=True)
        )

    def in_words(self) -> str:
        parts = zip(self.columns, self.mean, self.std, strict=True)
        return listed([f"{name} {mean:.4g} (std {std:.4g})" for name, mean, std in parts])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: list(values) for name, values in asdict(self).items()}}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TableStatistics:
        names = ("columns", "mean", "std", "step", "low", "high")
        return cls(*(tuple(document[name]) for name in names))


def step_of(column: Tensor) -> float:
    """The step of a discrete column, float64 (N,): the greatest common divisor of its differences; 0 if continuous."""
    values = column.unique()
    if len(values) > MOST_DISCRETE or len(values) < 2 or bool((values != values.round()).any()):
        return 0.0
    if float(values.abs().max()) >= 2**53:
        return 0.0
    return float(math.gcd(*(int(each) for each in values.diff().tolist())))
