"""Log-densities of images in nats and bits: explicit from one forward pass, or the likelihood by the flow.

Both are of dequantised images. A grey level v of 256 stands for the cell (v ± ½)/255, and a uniform draw from it is
what has a density; bits per dimension multiply that density by the width of the cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.likelihood import EXACT_TRACE_DIMENSION, log_likelihood
from vpfb_core.methods.transport import Solver
from vpfb_core.methods.vpfb.calibration import unnormalised
from vpfb_core.model.conditions import condition_tensor

if TYPE_CHECKING:
    from vpfb_core.model.trained import Model

METHODS = ("explicit", "ode")
GREY_LEVEL = 1 / 255
DEQUANTISATION = 1 / math.sqrt(12)  # standard deviation of a uniform draw, grey levels


def log_density(
    model: Model,
    images: Tensor,
    *,
    method: str,
    level: float | None,
    condition: str | Sequence[str] | Tensor | None,
    seed: int,
    first: int,
    batch_size: int,
    dequantise: bool,
    probes: int,
    solver: Mapping[str, Any],
) -> Tensor:
    """Nats an image in pixel coordinates; what `Model.log_density` says and does."""
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", hint=f"methods: {', '.join(METHODS)}")
    if batch_size < 1 or probes < 1:
        raise ConfigError(f"batch_size = {batch_size}, probes = {probes}: both must be at least 1")
    if solver and method != "ode":
        raise ConfigError(f"the explicit density takes no {', '.join(solver)}", hint='a solver belongs to "ode"')
    chosen = Solver.choose(**(solver or {"method": "dopri5"}))
    noisy = method == "explicit" or level is not None
    if method == "explicit":
        level = explicit_level(model, level)
    else:
        level = entry_level(model, dequantise) if level is None else checked_level(model, level)
    conditions = condition_tensor(condition, model.groups, len(images), first)
    parts = []
    for start in range(0, len(images), batch_size):
        rows, index = slice(start, start + batch_size), first + start
        pixels = dequantised(images[rows], seed, index) if dequantise else images[rows]
        z = model.arc_data(pixels)
        given = None if conditions is None else conditions[rows].to(model.device)
        u = blurred(z, level, seed, index) if noisy else clean(z, level)
        if method == "explicit":
            found = explicit(model, u, level, given)
        else:
            found = by_flow(model, u, level, given, hutchinson_probes(u, probes, seed, index), chosen)
        parts.append(found - u[0].numel() * math.log(model.statistics.std))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def bits(model: Model, log_density: Tensor) -> Tensor:
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


def blur(model: Model, level: float) -> float:
    """Standard deviation of the noise on an image at cot φ = level, in grey levels: cot φ · std · 255."""
    return level * model.statistics.std / GREY_LEVEL


def blurred(z: Tensor, level: float, seed: int, first: int) -> Tensor:
    """u = sin φ z + cos φ ε at cot φ = level, the noise of image i fixed by (seed, i); like z."""
    angle = math.atan(1 / level)
    epsilon = noise.normal(z.shape[1:], seed, range(first, first + len(z)), "blur").to(z)
    return math.sin(angle) * z + math.cos(angle) * epsilon


def clean(z: Tensor, level: float) -> Tensor:
    """u = sin φ z at cot φ = level: the image as it is, read as a point of the arc."""
    return math.sin(math.atan(1 / level)) * z


def explicit(model: Model, u: Tensor, level: float, condition: Tensor | None) -> Tensor:
    """log density of w = u/sin φ at cot φ = level, by −½‖u‖² + tan φ N(u, φ) + C(φ); nats, float64 (N,) on the CPU."""
    angle = math.atan(1 / level)
    assert model.normaliser is not None
    constants = model.normaliser.constant(
        torch.full((len(u),), angle, dtype=torch.float64), None if condition is None else condition.cpu()
    )
    energy = unnormalised(model.potential, u, u.new_full((len(u),), angle), condition).cpu().double()
    return energy + constants + u[0].numel() * math.log(math.sin(angle))


def by_flow(
    model: Model, u: Tensor, level: float, condition: Tensor | None, probes: Tensor | None, solver: Solver
) -> Tensor:
    """log density of w = u/sin φ at cot φ = level, by the encoding of u; nats, float64 (N,) on the CPU."""
    angle = math.atan(1 / level)
    found = log_likelihood(model.potential, u, [angle], condition, probes=probes, solver=solver)
    return found.log_density[0].cpu().double() + u[0].numel() * math.log(math.sin(angle))


def hutchinson_probes(u: Tensor, count: int, seed: int, first: int) -> Tensor | None:
    """Hutchinson's probes of the images from `first` on, (N, count, …); None where the trace is taken exactly."""
    if u[0].numel() <= EXACT_TRACE_DIMENSION:
        return None
    return noise.signs((count, *u.shape[1:]), seed, range(first, first + len(u)), "probes").to(u)


def entry_level(model: Model, dequantise: bool) -> float:
    """cot φ at which the flow is entered for its likelihood.

    The floor; but with dequantisation no later than where the flow's own noise is as wide as the dequantisation's, so
    that the network meets the noise that it was trained for.
    """
    floor = 1 / math.tan(model.potential.angle_range[1])
    return max(floor, DEQUANTISATION * GREY_LEVEL / model.statistics.std) if dequantise else floor


def explicit_level(model: Model, level: float | None) -> float:
    """The level asked for, or the one nearest the data at which explicit densities are quoted.

    Raises:
        CheckpointError: the model has no normaliser.
        ConfigError: a level below the floor of the schedule.
    """
    if model.normaliser is None:
        raise CheckpointError(
            "this model has no normaliser, so its energies are no densities", hint="vpfb info --calibrate MODEL"
        )
    return model.normaliser.least_noise if level is None else checked_level(model, level)


def checked_level(model: Model, level: float) -> float:
    """The level, if the schedule reaches it."""
    floor = 1 / math.tan(model.potential.angle_range[1])
    if not floor <= level < math.inf:
        raise ConfigError(
            f"level {level} is not at or above {floor:.3g}, the floor of the schedule",
            hint="the level is cot φ = σ/(μ a), the noise-to-signal ratio",
        )
    return level
