"""The plot of `solvers.py`: the distance to the converged solution by evaluations, for solvers and for grids."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# Okabe and Ito's colours, and a sign each, so that grey print will do.
STYLES = (
    ("#000000", "o"), ("#D55E00", "s"), ("#0072B2", "^"), ("#009E73", "D"), ("#CC79A7", "v"),
    ("#E69F00", "P"), ("#56B4E9", "X"), ("#777777", "*"), ("#8c510a", "<"), ("#01665e", ">"), ("#c51b7d", "h"),
)  # fmt: skip
TICKS = (4, 6, 8, 12, 16, 24, 40, 80)

Row = dict[str, Any]


def plot(rows: Sequence[Row]) -> bytes:
    """A PNG file of two panels: all solvers on the default grid or by tolerance, and arc3 on all grids."""
    figure = Figure(figsize=(11, 4.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    by_solver: dict[str, list[Row]] = {}
    by_grid: dict[str, list[Row]] = {}
    for row in rows:
        if row["grid"] == "default" or row["grid"].startswith("tolerance"):
            by_solver.setdefault(row["solver"], []).append(row)
        elif row["solver"] == "arc3":
            by_grid.setdefault(row["grid"], []).append(row)
    _panel(left, by_solver, "solvers, on the default grid or by tolerance")
    _panel(right, by_grid, "grids, with arc3")
    left.set_ylabel("distance to the converged samples, in deviations of the data")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _panel(axes: Axes, lines: dict[str, list[Row]], title: str) -> None:
    for (colour, marker), (name, rows) in zip(STYLES, lines.items(), strict=False):
        rows = sorted(rows, key=lambda row: row["nfe"])
        width = 2.2 if name in ("arc3", "default grid") else 1.1
        axes.plot(
            [row["nfe"] for row in rows], [row["rms"] for row in rows],
            color=colour, marker=marker, markersize=4.5, linewidth=width, label=name,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", title=title, xlabel="evaluations of the gradient")
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
