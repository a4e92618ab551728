"""What all plots share: the size of a figure, its colours, plain axes, and the PNG file."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from vpfb_core.machine.file_names import printable
from vpfb_core.machine.origin import UNKNOWN, Origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Colours of Okabe and Ito, which colour-blind people can distinguish, from dark to light where lines cross.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINES = ("-", "--", "-.", ":")  # in grey print, lines of different colours differ by these
DPI = 130


def figure(width: float, height: float) -> Figure:
    """A new figure of this size in inches, whose parts are laid out without overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def plain(axes: Axes) -> Axes:
    """The axes without their upper and right lines."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def thinned(points: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows of `points`, evenly spaced, (count, d)."""
    return points[np.linspace(0, len(points) - 1, count).round().astype(int)]


def literal(texts: Iterable[Text]) -> None:
    """Show texts as they are, on one line. A $ in the name of a folder does not begin a formula."""
    for text in texts:
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))  # matplotlib cannot draw bytes that are not text


def png(drawn: Figure, origin: Origin = UNKNOWN) -> bytes:
    """The content of a PNG file of a figure, in which its origin is recorded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer, metadata=origin.texts())
    return buffer.getvalue()
