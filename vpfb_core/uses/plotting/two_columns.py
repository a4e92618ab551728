"""Models of two columns: data, samples, log-density and flow in one figure, and the potential from noise to data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.plotting.figure import BLUE, VERMILION, figure, literal, plain, png, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEPTH = 10  # nats below the highest log-density that are told apart by colour
COLOUR_MAP = "cividis"  # its lightness rises evenly, also for colour-blind people and in grey print
MARGIN = 0.15  # beyond the data on each side, as a share of their range
MOST_POINTS = 2_000  # of data and of samples
ANIMATION_DPI = 80
_SQUARE = 4.0  # inches


@dataclass(frozen=True)
class Window:
    """The part of the plane that a figure shows.

    Attributes:
        x, y: the lowest and the highest value of each column.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def of(cls, points: np.ndarray) -> Window:
        """The window that contains points (N, 2) with a margin."""
        low, high = points.min(0), points.max(0)
        margin = MARGIN * np.where(high > low, high - low, 1)
        (left, bottom), (right, top) = low - margin, high + margin
        return cls((float(left), float(right)), (float(bottom), float(top)))

    def grid(self, side: int) -> np.ndarray:
        """The points of a regular grid, float64 (side², 2), row by row from the lower left corner."""
        x, y = np.meshgrid(np.linspace(*self.x, side), np.linspace(*self.y, side))
        return np.stack([x.ravel(), y.ravel()], 1)


def plane(
    data: np.ndarray, samples: np.ndarray, log_density: np.ndarray, paths: np.ndarray, window: Window,
    columns: Sequence[str], density_name: str, title: str, origin: Origin = UNKNOWN,
) -> bytes:  # fmt: skip
    """Draw data, samples, the learned log-density and paths of the flow side by side.

    As many data as samples are drawn, so that both look equally dense where their densities are equal.

    Args:
        data: data, (N, 2).
        samples: samples of the model, (M, 2).
        log_density: the log-density in nats on `window.grid(side)`, (side²,).
        paths: points of the flow from noise to data, (T, K, 2).
        window: the part of the plane that all four show.
        columns: the names of the two columns.
        density_name: what the log-density is.
        title: the title of the figure.
        origin: the origin that is recorded in the file.
    Returns:
        The content of a PNG file.
    """
    drawn = figure(2 * _SQUARE + 1.2, 2 * _SQUARE)
    (top, right), (below, last) = drawn.subplots(2, 2)
    count = min(len(data), len(samples), MOST_POINTS)
    for axes, points, name, colour in ((top, data, "data", BLUE), (right, samples, "samples", VERMILION)):
        _scatter(axes, thinned(points, count), colour)
        axes.set_title(f"{name} ({count:,})")
    side = round(len(log_density) ** 0.5)
    highest = float(np.nanmax(log_density))
    levels = np.ceil(highest) + np.linspace(-DEPTH, 0, 2 * DEPTH + 1)  # two per nat
    shown = below.contourf(
        np.linspace(*window.x, side), np.linspace(*window.y, side), log_density.reshape(side, side), levels.tolist(),
        cmap=COLOUR_MAP, extend="min",
    )  # fmt: skip
    below.set_title(density_name)
    drawn.colorbar(shown, ax=below, label="nats", ticks=levels[::2].tolist(), format="{x:.0f}")
    for path in paths.swapaxes(0, 1):
        last.plot(path[:, 0], path[:, 1], color="0.6", linewidth=0.6, zorder=1)
    _scatter(last, paths[0], "0.35", size=9)
    _scatter(last, paths[-1], VERMILION, size=9)
    last.set_title("flow from noise (grey) to data")
    for axes in (top, right, below, last):
        plain(axes).set(xlim=window.x, ylim=window.y)
    for axes, name in ((below, columns[0]), (last, columns[0])):
        axes.set_xlabel(name)
        literal([axes.xaxis.label])
    for axes in (top, below):
        axes.set_ylabel(columns[1])
        literal([axes.yaxis.label])
    literal([drawn.suptitle(title)])
    return png(drawn, origin)


@dataclass(frozen=True)
class Scene:
    """One moment on the way from noise to data.

    Attributes:
        log_density: on `window.grid(side)`, (side²,), up to a constant.
        points: points of the flow, (K, 2).
        title: what is shown.
    """

    log_density: np.ndarray
    points: np.ndarray
    title: str


def landscape(scenes: Iterable[Scene], window: Window, columns: Sequence[str]) -> Tensor:
    """Draw the log-density and points of the flow from noise to data.

    Args:
        scenes: the moments, in their order.
        window: the part of the plane that is shown.
        columns: the names of the two columns.
    Returns:
        The frames of an animation, uint8 (T, 3, H, W).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    frames = []
    for scene in scenes:
        drawn = figure(_SQUARE + 0.6, _SQUARE + 0.6)
        drawn.set_dpi(ANIMATION_DPI)
        axes = plain(drawn.add_subplot())
        side = round(len(scene.log_density) ** 0.5)
        highest = float(np.nanmax(scene.log_density))
        image = scene.log_density.reshape(side, side)
        extent = (*window.x, *window.y)
        axes.imshow(
            image, origin="lower", extent=extent, aspect="auto", cmap=COLOUR_MAP, vmin=highest - DEPTH, vmax=highest,
        )  # fmt: skip
        axes.scatter(scene.points[:, 0], scene.points[:, 1], s=7, color="white", edgecolors="black", linewidths=0.4)
        axes.set(xlim=window.x, ylim=window.y, xlabel=columns[0], ylabel=columns[1], title=scene.title)
        literal([axes.xaxis.label, axes.yaxis.label])
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
        frames.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    return torch.stack(frames)


def _scatter(axes: Axes, points: np.ndarray, colour: str, size: float = 4) -> None:
    """Draw points, (N, 2)."""
    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=0.6, linewidths=0, zorder=2)
