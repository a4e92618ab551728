"""Training curves: how validation, samples, learning rate and speed of one or several runs changed over their time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.plotting.figure import COLOURS, LINES, figure, literal, plain, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = Mapping[str, Sequence[float]]  # the columns of log.csv by name, as `run_log.read` returns them

# The longest run for which the time is given in a unit, in seconds, and the unit in seconds.
_UNITS = ((180.0, 1.0, "seconds"), (3 * 3600.0, 60.0, "minutes"), (math.inf, 3600.0, "hours"))


@dataclass(frozen=True)
class _Panel:
    """One plot of the figure.

    Attributes:
        title: its title.
        column: the column of the log; None is the first validation figure.
        measured: whether the column repeats a figure until it is measured again, so that only changes are points.
        logarithmic: whether equal distances are equal ratios.
        perfect: the value that a perfect model would have.
    """

    title: str
    column: str | None
    measured: bool = False
    logarithmic: bool = False
    perfect: float | None = None


PANELS = (
    _Panel("validation", None, measured=True, logarithmic=True),
    _Panel("sample accuracy (0.5 is perfect)", "sample_accuracy", measured=True, perfect=0.5),
    _Panel("learning rate", "lr"),
    _Panel("data per second", "images_per_second"),
)


def curves(logs: Mapping[str, Log], origin: Origin = UNKNOWN) -> bytes:
    """Draw the training curves of runs over the training time.

    Args:
        logs: the logs of the runs by the names that the legend shows.
        origin: the origin that is recorded in the file.
    Returns:
        The content of a PNG file.
    """
    drawn = figure(9.0, 6.0)
    unit, unit_name = _unit(logs.values())
    for axes, panel in zip(drawn.subplots(2, 2).flat, PANELS, strict=True):
        plain(axes)
        for number, log in enumerate(logs.values()):
            _draw(axes, panel, log, unit, number)
        axes.set_title(_title(panel, logs.values()), loc="left", fontsize="medium")
        axes.set_xlabel(f"training time ({unit_name})")
        axes.set_xlim(left=0)
        if panel.perfect is not None:
            axes.axhline(panel.perfect, color="0.6", linewidth=0.8, zorder=0)
        if panel.logarithmic:
            _logarithmic(axes)
        elif not panel.measured:
            axes.set_ylim(bottom=0)
    _name_runs(drawn, list(logs))
    return png(drawn, origin)


def _draw(axes: Axes, panel: _Panel, log: Log, unit: float, number: int) -> None:
    """Draw the curve of one run, which is number `number` of the figure."""
    column = panel.column or _validation(log)
    points = [
        (seconds / unit, value)
        for seconds, value in zip(log.get("seconds", ()), log.get(column, ()), strict=True)
        if math.isfinite(seconds) and math.isfinite(value)
    ]
    if panel.measured:
        points = [point for i, point in enumerate(points) if i == 0 or point[1] != points[i - 1][1]]
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=COLOURS[number % len(COLOURS)],
        linestyle=LINES[number % len(LINES)],
        marker="." if panel.measured else "",
    )


def _title(panel: _Panel, logs: Iterable[Log]) -> str:
    if panel.column is not None:
        return panel.title
    figures = sorted({_validation(log).removeprefix("val_").replace("_", " ") for log in logs})
    return f"{panel.title} {' or '.join(figures)} (lower is better)"


def _validation(log: Log) -> str:
    """The column of the first validation figure, by which the best model is chosen."""
    return next((name for name in log if name.startswith("val_")), "val_residual")


def _unit(logs: Iterable[Log]) -> tuple[float, str]:
    """The unit of time in seconds, and its name, for the longest of the runs."""
    longest = max((seconds for log in logs for seconds in log.get("seconds", ()) if math.isfinite(seconds)), default=0)
    return next((unit, name) for end, unit, name in _UNITS if longest <= end)


def _logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers, if all its values are positive."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    values = [value for line in axes.lines for value in np.asarray(line.get_ydata())]
    if not values or min(values) <= 0:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 4, 6, 8)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _name_runs(drawn: Figure, names: list[str]) -> None:
    """The name of a single run as the title of the figure, or a legend of several."""
    if len(names) == 1:
        literal([drawn.suptitle(names[0])])
        return
    handles = drawn.axes[0].lines[: len(names)]
    legend = drawn.legend(handles, names, loc="outside upper left", ncols=min(3, len(names)), frameon=False)
    literal(legend.get_texts())
