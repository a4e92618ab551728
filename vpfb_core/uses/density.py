"""Log-densities of images in nats and bits: explicit from one forward pass, or the likelihood by the flow.

Both are of dequantised images. A grey level v of 256 stands for the cell (v ± ½)/255, and a uniform draw from it is
what has a density; bits per dimension multiply that density by the width of the cell.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.likelihood import EXACT_TRACE_DIMENSION, log_likelihood
from vpfb_core.model.conditions import Condition
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.uses.draw import conditions_of

METHODS = ("explicit", "ode")
GREY_LEVEL = 1 / 255
DEQUANTISATION = 1 / math.sqrt(12)  # standard deviation of a uniform draw, grey levels


def log_density(
    model: TrainedModel,
    images: Tensor,
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
    """Normalised log-density of each image as a vector of d pixels in [0, 1]: nats, float64 (N,) on the CPU.

    "explicit" is one forward pass: the density, with the calibrated constant, of the image with the noise of `level`
    on it, a blur of `blur(model, level)` grey levels. "ode" is the flow's own likelihood by the encoding, at the cost
    of some hundred second differentiations: of the image as it is, or at a level, to compare the two. What is drawn for
    image i depends on (seed, i) alone.

    Args:
        images: (N, C, H, W), uint8 or in [0, 1].
        method: "explicit" or "ode".
        level: the ratio of the noise on the image to the deviation of the data. None is, for "explicit", the lowest
            one quoted, 0.1 where the model allows; for "ode", no noise: the image enters the flow at the lowest level,
            but no later than where the flow's own noise is as wide as that of dequantisation.
        condition: as in `draw.sample`; "explicit" is calibrated without condition and for one class at a time.
        first: index of the first image, where these are a part of many.
        batch_size: images computed at once.
        dequantise: draw each pixel uniformly from the cell of its grey level. Without it the density is that of points
            without volume, and is of use only for data that are no pictures.
        probes: of Hutchinson's estimate of the divergence ("ode"); in up to 16 dimensions it is exact.
        solver: of "ode", as in `Solver.choose`; dopri5 at its default tolerance if none is named.
    Raises:
        ConfigError: settings that do not exist, a condition that is not calibrated, or a method without an energy or
            a flow.
        CheckpointError: the model is not calibrated.
        SolverError: some image did not reach the prior.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown density method {method!r}", hint=f"methods: {', '.join(METHODS)}")
    if batch_size < 1 or probes < 1:
        raise ConfigError(f"batch_size = {batch_size}, probes = {probes}: both must be at least 1")
    if solver and method != "ode":
        raise ConfigError(f"the explicit density takes no {', '.join(solver)}", hint='a solver belongs to "ode"')
    chosen = Solver.choose(**(solver or {"method": "dopri5"}))
    noisy = method == "explicit" or level is not None
    level = explicit_level(model, level) if method == "explicit" else flow_level(model, level, dequantise)
    conditions = conditions_of(model, condition, len(images), first, use="a density")
    parts = []
    for start in range(0, len(images), batch_size):
        rows, index = slice(start, start + batch_size), first + start
        pixels = dequantised(images[rows], seed, index) if dequantise else images[rows]
        data = model.standardise(pixels)
        given = None if conditions is None else conditions[rows]
        x = model.field.at_level(data, level, _blur_noise(data, seed, index) if noisy else None)
        if method == "explicit":
            found = explicit(model, x, level, given)
        else:
            found = by_flow(model, x, level, given, hutchinson_probes(x, probes, seed, index), chosen)
        parts.append(found - x[0].numel() * math.log(model.statistics.std))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def bits_per_dim(model: TrainedModel, images: Tensor, **settings: Any) -> Tensor:
    """Bits per dimension of each image, float64 (N,); arguments as in `log_density`.

    An "explicit" figure is that of images blurred by `blur(model, level)` grey levels, to be stated beside it.
    """
    return bits(model, log_density(model, images, **settings))


def bits(model: TrainedModel, log_density: Tensor) -> Tensor:
    """Nats in pixels (N,) → bits per dimension: −(log p/d + log of the width of a grey level)/log 2."""
    return -(log_density / math.prod(model.shape) + math.log(GREY_LEVEL)) / math.log(2)


def dequantised(images: Tensor, seed: int, first: int = 0) -> Tensor:
    """Images (N, C, H, W), uint8 or in [0, 1] → a uniform draw from the cell of each pixel, float32 on the CPU.

    Pictures in [0, 1] are taken to the nearest grey level first: to the file that they would be saved as.
    """
    images = images.cpu()
    levels = images.float() if images.dtype == torch.uint8 else (images.float() / GREY_LEVEL).round()
    cells = noise.uniform(images.shape[1:], seed, range(first, first + len(images)), "dequantisation")
    return (levels + cells) * GREY_LEVEL


def blur(model: TrainedModel, level: float | None = None) -> float:
    """Standard deviation, in grey levels, of the noise on the images whose explicit density is given at a level."""
    return explicit_level(model, level) * model.statistics.std / GREY_LEVEL


def explicit(model: TrainedModel, x: Tensor, level: float, condition: Tensor | None) -> Tensor:
    """Log density of the data with the noise of a level, at points x of that level; nats, float64 (N,) on the CPU."""
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
    """The same as `explicit`, by the likelihood of the flow; nats, float64 (N,) on the CPU."""
    field: Any = model.field
    given = None if condition is None else condition.to(model.device)
    found = log_likelihood(field, x, [field.position(level)], given, probes=probes, solver=solver)
    signal, _ = field.scales(level)
    return found.log_density[0].cpu().double() + x[0].numel() * math.log(signal)


def hutchinson_probes(x: Tensor, count: int, seed: int, first: int) -> Tensor | None:
    """Hutchinson's probes of the images from `first` on, (N, count, …); None where the trace is taken exactly."""
    if x[0].numel() <= EXACT_TRACE_DIMENSION:
        return None
    return noise.signs((count, *x.shape[1:]), seed, range(first, first + len(x)), "probes").to(x)


def flow_level(model: TrainedModel, level: float | None, dequantise: bool) -> float:
    """The level asked for, or the one at which an image as it is enters the flow for its likelihood.

    That is the lowest; but with dequantisation no later than where the flow's own noise is as wide as that of
    dequantisation, so that the network meets the noise that it was trained for.

    Raises:
        ConfigError: the method has no flow, or the flow does not pass this level.
    """
    model.require("flow", "a likelihood")
    field: Any = model.field
    levels = Levels(*(field.level(position) for position in field.span))
    if level is not None:
        return levels.require(level)
    return max(levels.lowest, DEQUANTISATION * GREY_LEVEL / model.statistics.std) if dequantise else levels.lowest


def explicit_level(model: TrainedModel, level: float | None) -> float:
    """The level asked for, or the one nearest the data at which explicit densities are quoted.

    Raises:
        CheckpointError: the model is not calibrated.
        ConfigError: the method has no energy, or none at this level.
    """
    model.require("energy", "an explicit density")
    if model.calibration is None:
        raise CheckpointError(
            "this model is not calibrated, so its energies are not densities", hint="vpfb info --calibrate MODEL"
        )
    if level is None:
        return model.calibration.quoted_level
    assert model.field.levels is not None
    return model.field.levels.require(level)


def _blur_noise(data: Tensor, seed: int, first: int) -> Tensor:
    """The noise on image i, fixed by (seed, i); like data."""
    return noise.normal(data.shape[1:], seed, range(first, first + len(data)), "blur").to(data)
