"""Histograms of a score on two sets."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.plotting.figure import BLUE, VERMILION, figure, literal, plain, png

BINS = 40
# The axis extends on either side of the median by at most this many times the range of the in-distribution scores, so
# that extreme outliers do not squeeze these scores into one bar.
REACH = 12


def histogram(
    in_scores: Tensor, out_scores: Tensor, *, names: tuple[str, str], axis: str, title: str, origin: Origin = UNKNOWN
) -> bytes:
    """Draw two overlaid histograms of a score, each of area 1.

    Args:
        in_scores: the scores of in-distribution images, (N,).
        out_scores: the scores of out-of-distribution images, (M,).
        names: the names of the two sets.
        axis: the name of the score.
        title: the title of the plot.
        origin: the origin that is recorded in the file.
    Returns:
        The content of a PNG file.
    """
    drawn = figure(6.4, 4.0)
    axes = plain(drawn.add_subplot())
    low, high = _range(in_scores.numpy(), out_scores.numpy())
    edges = np.linspace(low, high, BINS + 1)
    styles: tuple[dict[str, Any], ...] = (
        {"facecolor": BLUE, "alpha": 0.55, "edgecolor": BLUE},
        {"facecolor": "none", "edgecolor": VERMILION, "hatch": "////"},
    )
    for scores, name, style in zip((in_scores, out_scores), names, styles, strict=True):
        label = f"{name} ({len(scores):,})"
        inside = np.clip(scores.numpy(), low, high)
        axes.hist(inside, bins=edges.tolist(), density=True, histtype="stepfilled", linewidth=1.4, label=label, **style)
    beyond = any(((scores < low) | (scores > high)).any() for scores in (in_scores, out_scores))
    note = "\nscores beyond the axis are counted in its outermost bars" if beyond else ""
    axes.set_xlabel(f"{axis}  (higher = more out-of-distribution){note}")
    axes.set_ylabel("density")
    axes.set_title(title)
    axes.margins(x=0)
    literal([axes.title, *axes.legend(frameon=False).get_texts()])
    return png(drawn, origin)


def _range(in_scores: np.ndarray, out_scores: np.ndarray) -> tuple[float, float]:
    """The ends of the axis, which covers all finite scores within `REACH` and is never empty."""
    finite = [scores[np.isfinite(scores)] for scores in (in_scores, out_scores)]
    known = np.concatenate(finite) if any(map(len, finite)) else np.zeros(1)
    low, high = float(known.min()), float(known.max())
    if len(finite[0]):
        first, middle, last = np.quantile(finite[0], (0.05, 0.5, 0.95))
        if last > first:
            reach = REACH * (last - first)
            low, high = max(low, middle - reach), min(high, middle + reach)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
