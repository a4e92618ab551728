"""What a source string means: the name of a known set, a folder or a file.

A set is known by being in `SETS`. A bare word in it is that set, even where a folder of that name exists; `./digits`
is always a path. `NAME:train` and `NAME:test` choose a split; `shuffled:SOURCE` is a control made of any other source.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vpfb_core.data import arrays, builtin, controls, decoding, folder, shapes, torchvision_sets
from vpfb_core.data.download import Files
from vpfb_core.data.labelling import TABLE
from vpfb_core.data.load_options import SPLITS, LoadOptions
from vpfb_core.data.source import Source
from vpfb_core.data.splits import split as split_by_pixels
from vpfb_core.errors import DataError

Loader = Callable[[LoadOptions], Source]

SHUFFLED = "shuffled:"
TEST_FRACTION, _TEST_SEED = 0.2, 0  # of the sets that come without a split
_HELD_OUT_FOLDERS = {"test", "val", "valid", "validation"}


@dataclass(frozen=True)
class Entry:
    """A set known by name.

    Attributes:
        summary: what it is, in one line.
        load: how it is loaded.
        images: how many it has (in its training split), where that is fixed.
        shape: (C, H, W) of its pictures, where all have one.
        classes: their names, () where it has none; None where only its files name them.
        files: where it is stored, with a split of its own; None for a set that comes with the package, without one.
    """

    summary: str
    load: Callable[[LoadOptions], Source]
    images: int | None = None
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    files: Files | None = None


SETS: dict[str, Entry] = {
    "digits": Entry(
        "handwritten digits, in the package", builtin.load_digits, 1_797, (1, 8, 8), torchvision_sets.DIGITS
    ),
    "shapes": Entry(
        "one shape an image, drawn from a seed, of any size", shapes.load_shapes, shapes.COUNT, None, shapes.CLASSES
    ),
    **{
        known.name: Entry(known.summary, known.load, known.images, known.shape, known.classes, known.files)
        for known in torchvision_sets.KNOWN
    },
    "noise": Entry("control: independent random pixels, of any size", controls.load_noise, controls.COUNT, None, ()),
    "constant": Entry("control: one colour an image, of any size", controls.load_constant, controls.COUNT, None, ()),
}
ALIASES = {"cifar": "cifar10"}


def resolve(source: str) -> Loader:
    """The loader for what a person typed: a name in `SETS`, or a path, perhaps with a split.

    Raises:
        DataError: there is no such set, split, folder or file, or the file is of no kind that can be read.
    """
    if source == SHUFFLED:
        raise DataError(f"'{source}' names no set to shuffle", hint=f"for example {SHUFFLED}mnist")
    if source.startswith(SHUFFLED):
        return partial(controls.load_shuffled, resolve(source.removeprefix(SHUFFLED)))
    name, split = split_off(source)
    if (known := ALIASES.get(name, name)) in SETS:
        return partial(_load_known, known, split)
    if (path := _existing(source)) is not None:
        return _path_loader(path)
    if split is not None and (path := _existing(name)) is not None:
        if not (path / split).is_dir():
            raise DataError(f"'{name}' has no sub-folder '{split}'", hint=f"'{name}' alone is all of it")
        return partial(folder.load_folder, path / split)
    raise _unknown(source)


def split_off(source: str) -> tuple[str, str | None]:
    """ "mnist:test" → ("mnist", "test"); without a split → (source, None)."""
    name, colon, split = source.rpartition(":")
    return (name, split) if colon and split in SPLITS else (source, None)


def canonical(source: str) -> str:
    """The one spelling of a set's name, without alias and split: whether two sources are the same set."""
    name, _ = split_off(source)
    return ALIASES.get(name, name)


def has_splits(source: str) -> bool:
    """Whether a source comes divided into train and test: a set with a split of its own, or such a folder."""
    if (known := SETS.get(canonical(source))) is not None:
        return known.files is not None
    path = _existing(split_off(source)[0])
    return path is not None and path.is_dir() and _is_divided(path)


def is_path(source: str) -> bool:
    """Whether the source is written as a path: with a separator, or as ., .. or ~."""
    return source in (".", "..", "~") or "/" in source or os.sep in source


def _load_known(name: str, split: str | None, options: LoadOptions) -> Source:
    entry = SETS[name]
    if options.split == "all":
        options = replace(options, split=None)
    if entry.files is not None:
        return entry.load(replace(options, split=split or options.split))
    if split is not None:
        return _fixed_part(entry, split, options)
    images = entry.load(options)
    if options.split == "test" and name not in ("noise", "constant"):
        note = f"'{name}' has no test split, so this is all of it ('{name}:test' is a fixed fifth)"
        return replace(images, notes=(*images.notes, note))
    return images


def _fixed_part(entry: Entry, split: str, options: LoadOptions) -> Source:
    """The fifth, or the rest, of a set without a split: chosen at its own size, so the same pictures at any."""
    train, test = split_by_pixels(entry.load(LoadOptions()), TEST_FRACTION, _TEST_SEED)
    rows = test if split == "test" else train
    part = entry.load(replace(options, limit=None)).subset(rows[options.rows(len(rows))])
    return replace(
        part, notes=(*part.notes, f"{len(part):,} of them, from a fixed split into {len(train)} and {len(test)}")
    )


def _path_loader(path: Path) -> Loader:
    if path.is_dir():
        return partial(_load_folder, path)
    ending = path.suffix.lower()
    if path.is_file() and ending in arrays.ENDINGS:
        return partial(arrays.load_arrays, path)
    if path.is_file() and ending in decoding.ENDINGS:
        return partial(folder.load_image_file, path)
    raise DataError(
        f"'{path}' is neither a folder, nor an image, .npy or .npz file",
        hint="unpack an archive first and name its folder" if ending in (".zip", ".tar", ".gz", ".tgz") else None,
    )


def _load_folder(path: Path, options: LoadOptions) -> Source:
    """A folder; of one that is divided into train and test only one side, which nobody means as two classes."""
    if options.split == "all" or not _is_divided(path):
        return folder.load_folder(path, options)
    chosen = options.split or "train"
    images = folder.load_folder(path / chosen, options)
    other = "test" if chosen == "train" else "train"
    note = f"'{path}' is divided into train and test: this is {chosen} ('{path}:{other}' names the other)"
    return replace(images, notes=(*images.notes, note))


def _is_divided(path: Path) -> bool:
    """Whether a folder holds train and test (perhaps validation too) and no other pictures or labels."""
    try:
        entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        folders = {entry.name for entry in entries if entry.is_dir()}
    except OSError:
        return False
    loose = any(entry.name == TABLE or Path(entry.name).suffix.lower() in decoding.ENDINGS for entry in entries)
    return {"train", "test"} <= folders <= {"train", *_HELD_OUT_FOLDERS} and not loose


def _existing(source: str) -> Path | None:
    """The path that source names, if there is something."""
    try:
        path = Path(source)
        if source.startswith("~") and not path.exists():
            path = path.expanduser()
        return path if source and path.exists() else None
    except RuntimeError:  # ~nobody
        return None
    except OSError as error:
        message = f"'{source}' cannot be opened: {error.strerror or error}"
        raise DataError(message, hint="check its spelling and permissions") from error


def _unknown(source: str) -> DataError:
    name, colon, split = source.partition(":")
    if colon and ALIASES.get(name, name) in SETS:
        return DataError(f"'{name}' has no split '{split}'", hint=f"there are {name}:train and {name}:test")
    if is_path(source):
        return DataError(
            f"no folder or file '{source}'", hint="check its spelling; a relative path starts at the current folder"
        )
    names = [*SETS, *ALIASES, f"{SHUFFLED}NAME"]
    near = difflib.get_close_matches(split_off(source)[0].lower(), names, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return DataError(
        f"no data set, folder or file named '{source}'",
        hint=f"{guess}data sets: {', '.join(names)}; or the path of a folder of images, an image, .npy or .npz",
    )
