"""Data for training and comparison: a named set, a folder, an image, an array or a table.

All of them implement one protocol, `Source`. `ImageSet` holds its images in memory as uint8, `StreamedSet` leaves those
of a very large folder on disk, and `Table` holds rows of numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vpfb_core.data.catalogue import SETS, canonical, resolve, split_off
from vpfb_core.data.held import from_tensors
from vpfb_core.data.images import ImageSet
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.named_set import NamedSet
from vpfb_core.data.quality import remarks
from vpfb_core.data.source import ConditionGroup, Source
from vpfb_core.data.splits import split
from vpfb_core.data.statistics import Statistics
from vpfb_core.data.streaming import StreamedSet
from vpfb_core.data.table import Table
from vpfb_core.errors import ConfigError

__all__ = [
    "SETS",
    "ConditionGroup",
    "ImageSet",
    "InMemory",
    "LoadOptions",
    "NamedSet",
    "Source",
    "Statistics",
    "StreamedSet",
    "Table",
    "canonical",
    "find",
    "from_tensors",
    "load",
    "split",
]


def load(
    source: str | os.PathLike[str],
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
    kind: str | None = None,
    columns: Sequence[str] | None = None,
    ranges: Sequence[tuple[float, float]] | None = None,
    label: str | None = None,
) -> InMemory:
    """Load data from any kind of source into memory: images (`ImageSet`) or a table of numbers (`Table`).

    Args:
        source: a name in `SETS`, NAME:train or NAME:test for one split, shuffled:SOURCE, a folder, DIR:train, DIR:val
            or DIR:test for one part of it, an image file, an .npy or .npz file, or a table (.csv, .tsv or .parquet).
        size: the side of images in pixels; None chooses it (`framing.choose_size`).
        max_size: the largest side that may be chosen; None is 256.
        channels: 1 is grey, 3 is colour; None follows the images.
        conditional: whether classes or attributes are read as well.
        workers: the number of threads that decode; 0 is one per processor. The result does not depend on it.
        root: the folder of downloaded data sets; None is VPFB_DATA, else the user's cache folder
            (`download.data_root`).
        download: whether a missing set may be downloaded.
        split: "train", "val" or "test", if the source has such parts and does not name one; None is "train". "all"
            takes a folder as it is, even if it is divided.
        limit: the largest number of data, which are a fixed random choice.
        kind: "images" or "rows", if a model takes no other data.
        columns: the columns of a table; None takes all that hold numbers.
        ranges: the lowest and the highest value of each of these columns, if a model cannot compute with others.
        label: the column of a table with the classes.
    Raises:
        DataError: there is no such source, or it cannot be read.
        ConfigError: an option is out of its range, or is for another kind of data.
        MissingError: the source needs a package that is not installed.
    """
    options = LoadOptions(
        size, max_size, channels, conditional, workers, root, download, split, limit,
        kind=kind, columns=None if columns is None else tuple(columns),
        ranges=None if ranges is None else tuple(ranges), label=label,
    )  # fmt: skip
    return find(os.fspath(source), options).in_memory()


def find(source: str, options: LoadOptions) -> Source:
    """The data of `load`. With `options.stream`, those of a very large folder stay on disk (`StreamedSet`).

    Raises:
        DataError: there is no such source, or it cannot be read.
        ConfigError: an option is for another kind of data.
        MissingError: the source needs a package that is not installed.
    """
    images = resolve(source)(options)
    _require_kind(source, images, options)
    notes = images.notes
    if cut := options.cut(len(images)):
        images, notes = images.subset(options.rows(len(images))), notes + cut
    if len(images) == 1 and images.fewest == 1:
        notes += ("a single image: a model trained on it learns to reproduce that image and nothing else",)
    if canonical(source) not in SETS:
        notes += remarks(images)
    elif (path := Path(split_off(source)[0])).exists():
        notes += (f"'{path}' is the data set of that name; './{path}' is the folder or file",)
    return replace(images, name=source, notes=notes)


def _require_kind(source: str, found: Source, options: LoadOptions) -> None:
    """Raise ConfigError if data of another kind are needed, or an option is given that only such data have."""
    if options.kind not in (None, found.noun):
        raise ConfigError(
            f"'{source}' holds {found.noun}, and the model is one of {options.kind}",
            hint="name data and a model of one kind",
        )
    given = {name for name in ("size", "channels", "columns", "label") if getattr(options, name) is not None}
    if unfit := sorted(given - found.takes):
        raise ConfigError(
            f"'{source}' holds {found.noun}, and {' and '.join(unfit)} {'are' if len(unfit) > 1 else 'is'} for "
            f"{'a table' if found.noun == 'images' else 'images'}",
            hint="leave these options out",
        )
