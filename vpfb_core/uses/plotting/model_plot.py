"""Plots of a model of a table: two columns as pictures of the plane, more columns pair by pair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import ConfigError
from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.methods.fields import Transports
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.density import log_density
from vpfb_core.uses.draw import sample
from vpfb_core.uses.pictures import gif
from vpfb_core.uses.plotting.pairs import pairs
from vpfb_core.uses.plotting.two_columns import Scene, Window, landscape, plane

SAMPLES = 2_000
PATHS = 60  # of the flow, in the figure
GRID = 100  # points on each side, at which densities are computed
FRAMES = 30
POINTS = 300  # in the animation
_TOLERANCE = 1e-3  # of the likelihood of the flow, finer than colours can show


def columns_of(model: TrainedModel) -> tuple[str, ...]:
    """The names of the columns of a model of a table; () for a model of images."""
    return model.statistics.columns if isinstance(model.statistics, TableStatistics) else ()


def plot(model: TrainedModel, rows: Tensor, title: str, seed: int = 0, origin: Origin = UNKNOWN) -> bytes:
    """Draw data and samples of a model, and for two columns the learned log-density and the flow.

    Args:
        model: a model of a table.
        rows: rows that the model was trained on, float64 (N, d).
        title: the title of the figure.
        seed: the seed of the samples.
        origin: the origin that is recorded in the file.
    Returns:
        The content of a PNG file.
    Raises:
        ConfigError: the model is of images, or has neither a flow nor an energy of two columns.
        SolverError: a sample did not reach the end of the flow.
    """
    columns = require_columns(model)
    if by_energy := len(columns) == 2 and not methods.gives(model.method.name, "flow"):
        model.require("energy", "a plot of two columns")
    samples = sample(model, SAMPLES, seed).require_success().images
    if len(columns) != 2:
        return pairs(rows.numpy(), samples.numpy(), columns, title, origin)
    window = Window.of(np.concatenate([rows.numpy(), samples[:PATHS].numpy()]))
    points = torch.from_numpy(window.grid(GRID))
    if by_energy:
        density, name = density_of_energy(model, points, window), "log-density of the energy"
    else:
        density, name = (
            log_density(
                model, points, method="ode", dequantise=False, batch_size=len(points), rtol=_TOLERANCE, atol=_TOLERANCE
            ),
            "learned log-density",
        )
    paths = _path(model, PATHS, seed)
    return plane(rows.numpy(), samples.numpy(), density.numpy(), paths, window, columns, name, title, origin)


def density_of_energy(model: TrainedModel, points: Tensor, window: Window) -> Tensor:
    """The log-density of the energy at its lowest noise level, whose constant is that of the sum over a regular grid.

    Args:
        model: a model of two columns with an energy.
        points: the points of the grid, in the units of the columns, float64 (N, 2).
        window: the part of the plane that the grid fills.
    Returns:
        Nats in the units of the columns, float64 (N,).
    """
    field = model.field
    assert field.levels is not None
    data, level = model.statistics.standardise(points, model.device), field.levels.lowest
    energy = field.energy(field.at_level(data, level), level)
    cell = math.prod(high - low for low, high in (window.x, window.y)) / (round(math.sqrt(len(points))) - 1) ** 2
    return (-energy.cpu().double()).log_softmax(0) - math.log(cell)


def animate(model: TrainedModel, rows: Tensor, seed: int = 0, origin: Origin = UNKNOWN) -> bytes:
    """Draw the learned log-density of two columns at noise levels from noise to data, and points of the flow.

    Each frame shows the density of the noisy data in the coordinates of the flow, in which noise and data have the same
    variance. Arguments and errors are those of `plot`; the model also needs an energy.

    Returns:
        The content of a GIF file.
    """
    columns = require_columns(model)
    if len(columns) != 2:
        raise ConfigError(f"an animation shows two columns, and the model has {len(columns)}", hint="-o plot.png")
    for capability in ("flow", "energy"):
        model.require(capability, "an animation")
    path = _path(model, POINTS, seed)
    window = Window.of(np.concatenate([rows.numpy(), path[0]]))
    u = model.statistics.standardise(torch.from_numpy(window.grid(GRID)), model.device)
    return gif(landscape(_scenes(model, u, path), window, columns), seconds=5, origin=origin)


def _scenes(model: TrainedModel, u: Tensor, path: np.ndarray) -> Iterator[Scene]:
    """The moments at which `path` was drawn, with the log-density at the points u, as far as energies are accurate."""
    field, flow, levels = model.field, cast(Transports, model.field), model.field.levels
    assert levels is not None
    start, end = flow.span
    for position, points in zip(flow.grid(start, end, FRAMES), path, strict=True):
        level = flow.level(position)
        if not levels.allow_chains(level):
            return
        energy = u.square().sum(1) / 2 if math.isinf(level) else field.energy(u, min(level, levels.highest))
        noise = "pure noise" if level > 100 else f"noise {level:.2g} times the deviation of the data"
        yield Scene(-energy.cpu().double().numpy(), points, noise)


def require_columns(model: TrainedModel) -> tuple[str, ...]:
    """The names of the columns. Raises ConfigError for a model of images."""
    if columns := columns_of(model):
        return columns
    raise ConfigError("a model of images has no such plot", hint="vpfb sample -n 64 -o grid.png")


def _path(model: TrainedModel, count: int, seed: int) -> np.ndarray:
    """The states of `count` samples at every step of the flow, (FRAMES + 1, count, d), in the units of the columns."""
    drawn = sample(model, count, seed, method="heun", nfe=2 * FRAMES, keep_path=True).require_success()
    assert drawn.solution.path is not None
    assert isinstance(model.statistics, TableStatistics)
    return model.statistics.unrounded(drawn.solution.path).cpu().numpy()
