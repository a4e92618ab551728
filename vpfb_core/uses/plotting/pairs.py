"""A pair plot: each column of data and samples, and each pair of columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.plotting.figure import BLUE, VERMILION, figure, literal, plain, png, thinned

MOST_COLUMNS = 6
MOST_POINTS = 500  # of each kind, per pair of columns
BINS = 30
_INCHES = 1.9  # the side of a plot


def pairs(data: np.ndarray, samples: np.ndarray, columns: Sequence[str], title: str, origin: Origin = UNKNOWN) -> bytes:
    """Draw the histograms of the first columns on the diagonal, and below it each pair of columns.

    Args:
        data: data, (N, d).
        samples: samples of the model, (M, d).
        columns: the names of the columns.
        title: the title of the figure.
        origin: the origin that is recorded in the file.
    Returns:
        The content of a PNG file.
    """
    count = min(len(columns), MOST_COLUMNS)
    drawn = figure(_INCHES * count + 0.8, _INCHES * count + 0.8)
    grid = drawn.subplots(count, count, squeeze=False)
    kinds = ((data, "data", BLUE, "-"), (samples, "samples", VERMILION, "--"))
    for row in range(count):
        for column in range(count):
            axes = plain(grid[row, column])
            axes.tick_params(labelsize="x-small", labelleft=column == 0 and row > 0, labelbottom=row == count - 1)
            if column > row:
                axes.set_axis_off()
                continue
            low, high = _range(data[:, column])
            axes.set_xlim(low, high)
            for points, name, colour, line in kinds:
                if row == column:
                    edges, share = np.linspace(low, high, BINS + 1).tolist(), np.full(len(points), 1 / len(points))
                    axes.hist(
                        points[:, column], bins=edges, weights=share, histtype="step", color=colour, linestyle=line,
                        label=name,
                    )  # fmt: skip
                    axes.set_yticks([])
                else:
                    shown = thinned(points, min(len(data), len(samples), MOST_POINTS))
                    axes.scatter(shown[:, column], shown[:, row], s=3, color=colour, alpha=0.5, linewidths=0)
                    axes.set_ylim(*_range(data[:, row]))
            if row == count - 1:
                axes.set_xlabel(columns[column], fontsize="small")
            if column == 0:
                axes.set_ylabel(columns[row], fontsize="small")
            literal([axes.xaxis.label, axes.yaxis.label])
    drawn.legend(*grid[0, 0].get_legend_handles_labels(), loc="upper right", frameon=False)
    left_out = f", the first {count} of {len(columns)} columns" if len(columns) > count else ""
    literal([drawn.suptitle(f"{title}{left_out}")])
    return png(drawn, origin)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The range of a column of the data with a margin, so that a few far samples do not squeeze the rest."""
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin
