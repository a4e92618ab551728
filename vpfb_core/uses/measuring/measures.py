"""Statistics: fixed functions of a datum, whose means over samples and over real data can be compared.

Each kind of data has groups of them. A group, such as "histogram", contains one or several numbers with names of their
own, such as "histogram:0.5". "brightness:FILE" is the mean of the pixels weighted by the grey levels of an image file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.single import read_weights
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.uses.measuring.masks import has_mask, mask_file

COLOURS = ("red", "green", "blue")
GREY_VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)  # the centres of the bins of the histogram
BIN_WIDTH = 0.12  # the standard deviation of a bin, about half the distance of two of them
# The noise level of the energies that decide on the class of an image. At it they told 99.9 % of the digits.
CLASS_LEVEL = 0.5


@dataclass(frozen=True)
class Group:
    """A group of statistics.

    Attributes:
        columns: their names.
        compute: maps values in the public form, (N, *shape), to the statistics, (N, columns).
        low, high: the limits that no datum can exceed.
        templates: the weights w of linear statistics Σ w·x, (columns, *shape); None if they are not linear.
    """

    columns: tuple[str, ...]
    compute: Callable[[Tensor], Tensor]
    low: float = 0.0
    high: float = 1.0
    templates: Tensor | None = None

    @classmethod
    def linear(cls, columns: Sequence[str], templates: Tensor, low: float = 0.0, high: float = 1.0) -> Group:
        """The statistics Σ w·x with these weights, float64 (columns, *shape)."""
        rows = templates.flatten(1)

        def compute(values: Tensor) -> Tensor:
            return values.flatten(1).cpu().double() @ rows.T

        return cls(tuple(columns), compute, low, high, templates)


@dataclass(frozen=True)
class Measures:
    """Some statistics of the data of a model.

    Attributes:
        model: the model.
        columns: the names of the statistics.
        groups: the groups in which they are, by name.
    """

    model: TrainedModel
    columns: tuple[str, ...]
    groups: Mapping[str, Group]

    @classmethod
    def of(cls, model: TrainedModel, names: Iterable[str] | None = None, *, masks: Path | None = None) -> Measures:
        """The statistics of some names, of columns or of whole groups; None is all that the model has.

        Args:
            model: the model.
            names: the names.
            masks: a folder of copies of the files of masks (`masks.keep_masks`).
        Raises:
            ConfigError: a name is unknown. The hint suggests the nearest one, or lists what there is.
            DataError: the file of a mask cannot be read or does not fit.
        """
        groups = groups_of(model)
        if names is None:
            return cls(model, tuple(column for group in groups.values() for column in group.columns), groups)
        wanted = list(names)
        if not isinstance(model.statistics, TableStatistics):
            groups |= {name: _in_mask(name, tuple(model.shape), masks) for name in wanted if has_mask(name)}
        columns = tuple(dict.fromkeys(column for name in wanted for column in _columns(groups, name)))
        used = {name: group for name, group in groups.items() if set(group.columns) & set(columns)}
        return cls(model, columns, used)

    def measure(self, values: Tensor, batch_size: int = DEFAULT_BATCH) -> Tensor:
        """The statistics of each datum, float64 (N, columns) on the CPU.

        Args:
            values: the data: images, uint8 or in [0, 1], (N, C, H, W), or rows.
            batch_size: the number of data that are computed at once.
        """
        groups = self.groups.values()
        order = [column for group in groups for column in group.columns]
        indices = [order.index(column) for column in self.columns]
        parts = []
        for part in values.split(batch_size):
            public = self.model.statistics.public(part)
            found = torch.cat([group.compute(public).cpu().double() for group in groups], 1)
            parts.append(found[:, indices])
        return torch.cat(parts) if parts else torch.empty(0, len(self.columns), dtype=torch.float64)

    def limits(self) -> tuple[Tensor, Tensor]:
        """The limits that no datum can exceed, float64 (columns,) each."""
        found = [self._group(column) for column in self.columns]
        low, high = ([getattr(group, name) for group in found] for name in ("low", "high"))
        return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)

    def templates(self) -> dict[str, Tensor]:
        """The weights of the values in the linear statistics, float64 (*shape), by column."""
        found = {}
        for column in self.columns:
            group = self._group(column)
            if group.templates is not None:
                found[column] = group.templates[group.columns.index(column)]
        return found

    def _group(self, column: str) -> Group:
        return next(group for group in self.groups.values() if column in group.columns)


def groups_of(model: TrainedModel) -> dict[str, Group]:
    """The groups of statistics that a model has without further files, by name."""
    if isinstance(model.statistics, TableStatistics):
        return _of_tables(model.statistics)
    return _of_images(tuple(model.shape)) | _of_classes(model)


def names_of(shape: tuple[int, ...], columns: Sequence[str], classes: Sequence[ConditionGroup]) -> tuple[str, ...]:
    """The names of all statistics that a model can have, of groups and of columns.

    Args:
        shape: the shape of a datum.
        columns: the names of the columns of a table; () for images.
        classes: the condition groups of which the model has densities.
    """
    if columns:
        found: dict[str, Sequence[str]] = {"means": columns, "spreads": [f"spread:{column}" for column in columns]}
    else:
        found = {name: group.columns for name, group in _of_images(shape).items()}
    if classes and not columns:
        found["classes"] = [f"{group.name}:{name}" for group in classes for name in group.classes]
    return tuple(dict.fromkeys([*found, *(column for each in found.values() for column in each)]))


def _columns(groups: dict[str, Group], name: str) -> tuple[str, ...]:
    """The columns of a group, or the column of that name."""
    if name in groups:
        return groups[name].columns
    columns = [column for group in groups.values() for column in group.columns]
    if name in columns:
        return (name,)
    if name == "classes":
        raise ConfigError(
            "the statistic classes needs a conditional model with calibrated densities",
            hint="train with `conditional` and a method that has densities, and use vpfb info --calibrate MODEL",
        )
    several = [f"{group} ({', '.join(each.columns)})" if len(each.columns) > 1 else group
               for group, each in groups.items()]  # fmt: skip
    raise ConfigError(
        f"unknown statistic {name!r}",
        hint=did_you_mean(name, [*groups, *columns]).rstrip() or f"statistics: {', '.join(several)}",
    )


# --- images -----------------------------------------------------------------------------------------------------------


def _of_images(shape: tuple[int, ...]) -> dict[str, Group]:
    """The statistics of images in [0, 1] of shape (C, H, W)."""
    channels, height, width = shape
    values = math.prod(shape)
    whole = torch.ones(1, *shape, dtype=torch.float64) / values
    each_channel = torch.eye(channels, dtype=torch.float64)[:, :, None, None].expand(-1, -1, height, width)
    colours = {"channels": Group.linear(COLOURS, each_channel / (height * width))} if channels == len(COLOURS) else {}
    return {
        "brightness": Group.linear(("brightness",), whole),
        **colours,
        "regions": _of_regions(shape),
        "contrast": Group(("contrast",), lambda x: x.flatten(1).std(1, correction=0)[:, None]),
        "histogram": Group(tuple(f"histogram:{grey:g}" for grey in GREY_VALUES), _histogram),
        "edges": Group(("edges",), _edges),
    }


def _in_mask(name: str, shape: tuple[int, ...], masks: Path | None) -> Group:
    return Group.linear((name,), read_weights(mask_file(name, masks), shape)[None])


def _of_regions(shape: tuple[int, ...]) -> Group:
    """The mean brightness of each half of an image, and of the square in its middle with half of its side."""
    _, height, width = shape
    rows, columns = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
    regions = {
        "top": (slice(0, height // 2), slice(None)),
        "bottom": (slice(height - height // 2, None), slice(None)),
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width - width // 2, None)),
        "centre": (rows, columns),
    }
    templates = torch.zeros(len(regions), *shape, dtype=torch.float64)
    for template, (down, across) in zip(templates, regions.values(), strict=True):
        template[:, down, across] = 1
        template /= template.sum()
    return Group.linear(tuple(regions), templates)


def _histogram(images: Tensor) -> Tensor:
    """The share of the values near each of `GREY_VALUES`, weighted by a Gaussian around it."""
    flat = images.flatten(1)
    return torch.stack([torch.exp(-0.5 * ((flat - grey) / BIN_WIDTH) ** 2).mean(1) for grey in GREY_VALUES], 1)


def _edges(images: Tensor) -> Tensor:
    """The mean squared difference between neighbouring pixels, down and across."""
    down, across = (images.diff(dim=dim).square().flatten(1).mean(1) for dim in (2, 3))
    return (0.5 * (down + across))[:, None]


# --- classes ----------------------------------------------------------------------------------------------------------


def _of_classes(model: TrainedModel) -> dict[str, Group]:
    """The probability of each class given the image, by the densities of the classes of the model, if it has them."""
    untilted = model.untilted
    calibration = untilted.calibration
    if not model.groups or calibration is None or not methods.gives(model.method.name, "density"):
        return {}
    columns, conditions = [], []
    for position, group in enumerate(model.groups):
        for index, name in enumerate(group.classes):
            condition = tuple(index if i == position else -1 for i in range(len(model.groups)))
            if calibration.knows(condition):  # otherwise the training data have no image of the class
                columns.append(f"{group.name}:{name}")
                conditions.append(condition)

    def compute(values: Tensor) -> Tensor:
        return class_probabilities(untilted, values, conditions)

    return {"classes": Group(tuple(columns), compute)} if columns else {}


def class_probabilities(model: TrainedModel, values: Tensor, conditions: Sequence[tuple[int, ...]]) -> Tensor:
    """The probability of each condition among those of the same condition group, if all are equally frequent.

    Args:
        model: a model with calibrated densities of classes.
        values: the data in the public form, (N, *shape).
        conditions: the class index in each condition group, of which one is a class and the others are −1.
    Returns:
        float64 (N, conditions) on the CPU. Those of one group sum to 1.
    """
    assert model.calibration is not None and model.field.levels is not None
    level = min(max(CLASS_LEVEL, model.field.levels.lowest), model.field.levels.highest)
    x = model.field.at_level(model.statistics.standardise(values, model.device), level)
    log_densities = []
    for condition in conditions:
        rows = torch.tensor(condition, device=model.device).expand(len(x), -1)
        log_densities.append(model.calibration.constant(level, condition) - model.field.energy(x, level, rows))
    joint = torch.stack(log_densities, 1).cpu().double()
    group_of = torch.tensor([next(i for i, index in enumerate(each) if index >= 0) for each in conditions])
    found = torch.empty_like(joint)
    for group in group_of.unique():
        indices = (group_of == group).nonzero()[:, 0]
        found[:, indices] = joint[:, indices].softmax(1)
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def _of_tables(statistics: TableStatistics) -> dict[str, Group]:
    """The mean of each column, and its mean absolute deviation from the mean of the training data."""
    columns = statistics.columns
    mean = torch.tensor(statistics.mean, dtype=torch.float64)
    means = Group.linear(columns, torch.eye(len(columns), dtype=torch.float64), -math.inf, math.inf)
    spreads = Group(
        tuple(f"spread:{column}" for column in columns), lambda rows: (rows - mean.to(rows.device)).abs(), 0.0, math.inf
    )
    return {"means": means, "spreads": spreads}
