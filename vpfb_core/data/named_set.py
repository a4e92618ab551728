"""The description of a named data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vpfb_core.data.download import Files
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import Source


@dataclass(frozen=True)
class NamedSet:
    """A named data set, as it is known before it is loaded.

    Attributes:
        name: the name that users type.
        summary: one line that says what it is.
        load: the function that loads it.
        images: the number of data in its training split; None if it is not fixed.
        shape: the shape (C, H, W) of its images, or (d,) of its rows; None if they differ.
        classes: the names of its classes, () if it has none; None if only its files contain them.
        files: its files, if it has splits for training and test; None for a set that is part of the package and has no
            splits.
        aliases: other names of the set.
        control: whether it is a control for out-of-distribution scores, all of which is used as a test set.
    """

    name: str
    summary: str
    load: Callable[[LoadOptions], Source]
    images: int | None = None
    shape: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    files: Files | None = None
    aliases: tuple[str, ...] = ()
    control: bool = False
