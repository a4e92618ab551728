"""Pictures for training: from a known set, a folder, an image or an array file, in memory as uint8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vpfb_core.data.catalogue import SETS, canonical, resolve, split_off
from vpfb_core.data.images import ImageSet
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import ConditionGroup, Source
from vpfb_core.data.splits import split
from vpfb_core.data.streaming import StreamedSet

__all__ = [
    "SETS",
    "ConditionGroup",
    "ImageSet",
    "LoadOptions",
    "Source",
    "StreamedSet",
    "canonical",
    "find",
    "load",
    "resolve",
    "split",
]


def load(
    source: str,
    *,
    size: int | None = None,
    max_size: int | None = None,
    channels: int | None = None,
    conditional: bool = False,
    workers: int = 0,
    root: Path | None = None,
    download: bool = True,
    split: str | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Loads pictures, whatever they are kept in.

    Args:
        source: a name in `SETS`, with :train or :test where one split is meant, shuffled:SOURCE, a folder, an image
            file, or an .npy or .npz file.
        size: side in pixels; None chooses it (`framing.choose_size`).
        max_size: the largest side that may be chosen; None is 256.
        channels: 1 grey or 3 colour; None finds out.
        conditional: read classes or attributes too.
        workers: threads that decode; 0 is one a processor. The result does not depend on it.
        root: where sets known by name lie; None is VPFB_DATA, else the user's cache folder (`download.data_root`).
        download: whether a set that is absent may be downloaded.
        split: "train" or "test", where the source does not say and there are two; None is "train". "all" takes a
            folder as it is, though it may be divided.
        limit: at most so many pictures, a fixed random choice.
    Raises:
        DataError: no such source, or it cannot be read.
        ConfigError: an option out of its range.
    """
    return find(
        source, LoadOptions(size, max_size, channels, conditional, workers, root, download, split, limit)
    ).in_memory()


def find(source: str, options: LoadOptions) -> Source:
    """Pictures as `load` gives them; with `options.stream`, those of a very large folder stay on disk (`StreamedSet`).

    Raises:
        DataError: no such source, or it cannot be read.
    """
    images = resolve(source)(options)
    notes = images.notes
    if options.limit is not None and len(images) > options.limit:
        images = images.subset(options.rows(len(images)))
    if len(images) == options.limit:
        notes += (f"limited to {options.limit:,} of them, a fixed choice",)
    elif len(images) == 1:
        notes += ("one image: a model of it learns to reproduce that one picture, nothing else",)
    if canonical(source) in SETS and (path := Path(split_off(source)[0])).exists():
        notes += (f"'{path}' is the data set of that name; './{path}' is what is here under it",)
    return replace(images, name=source, notes=notes)
