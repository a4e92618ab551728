"""Log-densities of images in nats and bits per dimension: the explicit density or the likelihood of the flow.

The explicit density takes one forward pass. Both are densities of dequantised images: one of 256 grey levels v is
replaced by a uniform draw from the cell (v ± ½)/255, which has a density. Bits per dimension multiply this density by
the width of the cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.data.image_statistics import GREY_LEVEL, ImageStatistics
from vpfb_core.data.statistics import Values
from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.likelihood import log_likelihood
from vpfb_core.model.conditions import Condition
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.settings import require_index, require_seed, whole_number
from vpfb_core.uses.draw import batches, conditions_of_data

METHODS = ("explicit", "ode")


def log_density(
    model: TrainedModel,
    images: Values,
    *,
    method: str = "explicit",
    level: float | None = None,
    condition: Condition = None,
    seed: int = 0,
    first: int = 0,
    batch_size: int = DEFAULT_BATCH,
    dequantise: bool = True,
    probes: int = 1,
    **solver: Any,
) -> Tensor:
    """The normalised log-density of images as vectors of d pixels in [0, 1], in nats, float64 (N,) on the CPU.

    The method "explicit" takes one forward pass. It returns the density of the image with the noise of `level`, which
    blurs it by `blur(model, level)` grey levels, and uses the calibrated constants. The method "ode" is the likelihood
    of the flow, which costs about a hundred evaluations of the divergence. It returns the density of the image without
    noise, or with that of `level` for a comparison of both methods. The noise of image i depends only on (seed, i).

    Args:
        model: the model.
        images: (N, C, H, W), uint8 or in [0, 1].
        method: "explicit" or "ode".
        level: the ratio of the noise to the standard deviation of the data. For "explicit", None is the lowest reported
            level, usually 0.1. For "ode", None adds no noise: the image enters the flow at the lowest level, or at the
            level whose noise is as wide as that of dequantisation if that is higher.
        condition: one condition of all images, or one per image, as in `draw.sample`. "explicit" is calibrated without
            a condition and for single classes.
        seed: the seed of all noise.
        first: the index of the first image, if these images are a part of a larger set.
        batch_size: the number of images that are computed at once.
        dequantise: whether each pixel is drawn uniformly from the cell of its grey level. Set it to False only for data
            that are not 8-bit images.
        probes: the number of probes of Hutchinson's estimator of the divergence for "ode", which is used beyond
            `Statistics.exact_dimension`: 16 for images, and 256 for tables.
        solver: the solver for "ode", as in `Solver.choose`; the default is dopri5 with its default tolerance.
    Raises:
        ConfigError: a setting does not exist, the images have another shape, dtype or range, the condition is not
            calibrated, or the method has no energy or no flow.
        CheckpointError: the model is not calibrated.
        SolverError: an image did not reach the prior.
    """
    density = Density.choose(model, method, level, seed=seed, dequantise=dequantise, probes=probes, **solver)
    images, first = model.checked(images), require_index("first", first)
    conditions = conditions_of_data(model, condition, len(images), use="a density")
    parts = [
        density.of(images[rows], first + rows.start, None if conditions is None else conditions[rows])
        for rows in batches(len(images), batch_size)
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class Density:
    """A log-density of images under a model, with settings that have been checked.

    Attributes:
        model: the model.
        method: "explicit" or "ode".
        level: the noise level at which the density is computed.
        noisy: whether the images get the noise of this level.
        seed: the seed of all noise, which for image i depends only on (seed, i).
        dequantise: whether each pixel is drawn uniformly from the cell of its grey level.
        probes: the number of probes of Hutchinson's estimator.
        solver: the solver of the flow.
    """

    model: TrainedModel
    method: str
    level: float
    noisy: bool
    seed: int
    dequantise: bool
    probes: int
    solver: Solver

    @classmethod
    def choose(
        cls,
        model: TrainedModel,
        method: str = "explicit",
        level: float | None = None,
        *,
        seed: int = 0,
        dequantise: bool = True,
        probes: int = 1,
        **solver: Any,
    ) -> Density:
        """The density that these settings describe. Arguments and errors are those of `log_density`."""
        if method not in METHODS:
            raise ConfigError(f"unknown density method {method!r}", hint=f"methods: {', '.join(METHODS)}")
        if whole_number("probes", probes) < 1:
            raise ConfigError(f"probes = {probes}: at least one is needed")
        chosen = Solver.of(solver or {"method": "dopri5"})
        if solver and method != "ode":
            raise ConfigError(f"the explicit density takes no {', '.join(solver)}", hint='only "ode" uses a solver')
        noisy = method == "explicit" or level is not None
        at = explicit_level(model, level) if method == "explicit" else flow_level(model, level, dequantise)
        return cls(model, method, at, noisy, require_seed(seed), dequantise, probes, chosen)

    def of(self, images: Tensor, first: int = 0, condition: Tensor | None = None) -> Tensor:
        """The log-densities of one batch of images, float64 (N,) on the CPU.

        Args:
            images: images that `TrainedModel.checked` has accepted, (N, C, H, W).
            first: the index of the first image.
            condition: class indices, int64 (N, G), or None.
        """
        model, level = self.model, self.level
        values = model.statistics.dequantise(images, self.seed, first) if self.dequantise else images
        data = model.statistics.standardise(values, model.device)
        x = model.field.at_level(data, level, _blur_noise(data, self.seed, first) if self.noisy else None)
        if self.method == "explicit":
            found = explicit(model, x, level, condition)
        else:
            exact = model.statistics.exact_dimension
            probes = hutchinson_probes(x, self.probes, self.seed, first, exact)
            found = by_flow(model, x, level, condition, probes, self.solver)
        return found + model.statistics.log_volume(tuple(model.shape))


def bits_per_dim(model: TrainedModel, images: Values, **settings: Any) -> Tensor:
    """The bits per dimension of images, float64 (N,). Arguments are those of `log_density`.

    An "explicit" figure belongs to images that are blurred by `blur(model, level)` grey levels, which should be
    reported with it.
    """
    return bits(model, log_density(model, images, **settings))


def bits(model: TrainedModel, log_density: Tensor) -> Tensor:
    """Bits per dimension, −(log p/d + log of the width of a grey level)/log 2, from log-densities in nats (N,).

    Raises:
        ConfigError: the data of the model are no images, and have no grey levels.
    """
    if not isinstance(model.statistics, ImageStatistics):
        raise ConfigError(
            f"bits per dimension are for images, and the model is of {model.statistics.noun}",
            hint="log_density returns nats per datum",
        )
    return -(log_density / math.prod(model.shape) + math.log(GREY_LEVEL)) / math.log(2)


def blur(model: TrainedModel, level: float | None = None) -> float:
    """The standard deviation of the noise on data whose explicit density is computed at a level.

    It is in grey levels for images, and in standard deviations of each column for rows.
    """
    return explicit_level(model, level) * model.statistics.unit[0]


def explicit(model: TrainedModel, x: Tensor, level: float, condition: Tensor | None) -> Tensor:
    """The explicit log-density of data with the noise of a level, at points x (N, …) of that level.

    Returns:
        float64 (N,) on the CPU, in nats and in the coordinates of standardised data of unit variance.
    """
    assert model.calibration is not None
    rows = [None] * len(x) if condition is None else [tuple(row) for row in condition.tolist()]
    constants = {row: model.calibration.constant(level, row) for row in set(rows)}
    energy = model.field.energy(x, level, None if condition is None else condition.to(model.device))
    signal, _ = model.field.scales(level)
    constant = torch.tensor([constants[row] for row in rows], dtype=torch.float64)
    return constant - energy.cpu().double() + x[0].numel() * math.log(signal)


def by_flow(
    model: TrainedModel, x: Tensor, level: float, condition: Tensor | None, probes: Tensor | None, solver: Solver
) -> Tensor:
    """The log-density of `explicit`, computed as the likelihood of the flow."""
    field: Any = model.field
    given = None if condition is None else condition.to(model.device)
    found = log_likelihood(field, x, [field.position(level)], given, probes=probes, solver=solver)
    signal, _ = field.scales(level)
    return found.log_density[0].cpu().double() + x[0].numel() * math.log(signal)


def hutchinson_probes(x: Tensor, count: int, seed: int, first: int, exact: int) -> Tensor | None:
    """The probes of Hutchinson's estimator for the data from `first` on, (N, count, …).

    None, for the exact trace, in up to `exact` dimensions.
    """
    if x[0].numel() <= exact:
        return None
    return noise.signs((count, *x.shape[1:]), seed, range(first, first + len(x)), "probes").to(x)


def flow_level(model: TrainedModel, level: float | None, dequantise: bool) -> float:
    """The given level, or the level at which an image without noise enters the flow for its likelihood.

    That is the lowest level. With dequantisation it is at least the level whose noise is as wide as that of
    dequantisation, so that the input of the network is like its training data.

    Raises:
        ConfigError: the method has no flow, or the flow does not pass through this level.
    """
    model.require("flow", "a likelihood")
    field: Any = model.field
    levels = Levels(*(field.level(position) for position in field.span))
    if level is not None:
        return levels.require(level)
    return max(levels.lowest, model.statistics.learned_width) if dequantise else levels.lowest


def explicit_level(model: TrainedModel, level: float | None) -> float:
    """The given level, or the default level of explicit densities.

    Raises:
        CheckpointError: the model is not calibrated.
        ConfigError: the method has no energy, or it has none at this level.
    """
    model.require("density", "an explicit density")
    if model.calibration is None:
        raise CheckpointError(
            "this model is not calibrated, so its energies are not densities", hint="vpfb info --calibrate MODEL"
        )
    if level is None:
        return model.calibration.quoted_level
    assert model.field.levels is not None
    return model.field.levels.require(level)


def _blur_noise(data: Tensor, seed: int, first: int) -> Tensor:
    """The noise of the images from `first` on, like data. That of image i depends only on (seed, i)."""
    return noise.normal(data.shape[1:], seed, range(first, first + len(data)), "blur").to(data)
