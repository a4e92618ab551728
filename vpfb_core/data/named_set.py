"""A data set that has a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vpfb_core.data.download import Files
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import Source


@dataclass(frozen=True)
class NamedSet:
    """What is known of a data set before it is loaded.

    Attributes:
        name: what users type.
        summary: what it is, in one line.
        load: loads it.
        images: number of images (in its training split), where that is fixed.
        shape: (C, H, W) of its images, where all have one shape.
        classes: their names, () where it has none; None where only its files name them.
        files: where it is stored, if it has train and test splits of its own; None for a set that comes with the
            package and has no splits.
        aliases: other names of the set.
        control: whether it is a control for out-of-distribution scores: all of it serves as a test set.
    """

    name: str
    summary: str
    load: Callable[[LoadOptions], Source]
    images: int | None = None
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    files: Files | None = None
    aliases: tuple[str, ...] = ()
    control: bool = False
