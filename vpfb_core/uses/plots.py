"""Plots, as PNG bytes. matplotlib is imported when one is drawn; its global state is left alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from torch import Tensor

# Okabe and Ito's colours for the colour-blind; in grey print, fill and hatching tell them apart.
BLUE, VERMILION = "#0072B2", "#D55E00"
BINS = 40
# Strangers far away must not press the members into one bar: the axis reaches this many times their usual range.
REACH = 12
_INCHES, _DPI = (6.4, 4.0), 130


def histogram(members: Tensor, strangers: Tensor, *, names: tuple[str, str], axis: str, title: str) -> bytes:
    """Two overlaid histograms of a score, each of area 1.

    Args:
        members: scores of in-distribution images, (N,).
        strangers: of out-of-distribution images, (M,).
        names: of the two sets.
        axis: what the score is.
    Returns:
        a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    low, high = _range(members.numpy(), strangers.numpy())
    edges = np.linspace(low, high, BINS + 1)
    styles: tuple[dict[str, Any], ...] = (
        {"facecolor": BLUE, "alpha": 0.55, "edgecolor": BLUE},
        {"facecolor": "none", "edgecolor": VERMILION, "hatch": "////"},
    )
    for scores, name, style in zip((members, strangers), names, styles, strict=True):
        label = f"{name} ({len(scores):,})"
        inside = np.clip(scores.numpy(), low, high)
        axes.hist(inside, bins=edges.tolist(), density=True, histtype="stepfilled", linewidth=1.4, label=label, **style)
    beyond = any(((scores < low) | (scores > high)).any() for scores in (members, strangers))
    note = "\nscores beyond the axis are in its outermost bars" if beyond else ""
    axes.set_xlabel(f"{axis}  (higher = more out-of-distribution){note}")
    axes.set_ylabel("density")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _range(members: np.ndarray, strangers: np.ndarray) -> tuple[float, float]:
    """What the axis covers: all finite scores, but only as far from the members as `REACH` says; never empty."""
    finite = [scores[np.isfinite(scores)] for scores in (members, strangers)]
    known = np.concatenate(finite) if any(map(len, finite)) else np.zeros(1)
    low, high = float(known.min()), float(known.max())
    if len(finite[0]):
        first, middle, last = np.quantile(finite[0], (0.05, 0.5, 0.95))
        if last > first:
            reach = REACH * (last - first)
            low, high = max(low, middle - reach), min(high, middle + reach)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
