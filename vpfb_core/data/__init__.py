"""Pictures for training: from a known set, a folder, an image or an array file, in memory as uint8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vpfb_core.data.catalogue import SETS, resolve
from vpfb_core.data.images import ConditionGroup, ImageSet, LoadOptions
from vpfb_core.data.split import split

__all__ = ["SETS", "ConditionGroup", "ImageSet", "LoadOptions", "load", "resolve", "split"]


def load(
    source: str,
    *,
    size: int | None = None,
    max_size: int | None = None,
    channels: int | None = None,
    conditional: bool = False,
    workers: int = 0,
) -> ImageSet:
    """Loads pictures, whatever they are kept in.

    Args:
        source: a name in `SETS`, a folder, an image file, or an .npy or .npz file.
        size: side in pixels; None chooses it (`framing.choose_size`).
        max_size: the largest side that may be chosen; None is 256.
        channels: 1 grey or 3 colour; None finds out.
        conditional: read classes or attributes too.
        workers: threads that decode; 0 is one a processor. The result does not depend on it.
    Raises:
        DataError: no such source, or it cannot be read.
        ConfigError: an option out of its range.
    """
    options = LoadOptions(size, max_size, channels, conditional, workers)
    images = resolve(source)(options)
    notes = images.notes
    if len(images) == 1:
        notes += ("one image: a model of it learns to reproduce that one picture, nothing else",)
    if source in SETS and Path(source).exists():
        notes += (f"'{source}' is the built-in set; './{source}' is what is here under that name",)
    return replace(images, name=source, notes=notes)
