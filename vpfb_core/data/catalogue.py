"""What a source string means: the name of a data set, a folder or a file.

A bare word in `SETS` is that data set, even where a folder of that name exists; `./digits` is always a path.
`NAME:train` and `NAME:test` choose a split, and so do `DIR:train`, `DIR:val` and `DIR:test` for a folder with such
sub-folders; `DIR:all` is all of it. `shuffled:SOURCE` is a control made of any other source.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vpfb_core.data import arrays, decoding, folder, held, sets, table_files, table_loading
from vpfb_core.data.divisions import division_of, part_of_name, sub_folder_of_part
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.load_options import SPLITS, LoadOptions
from vpfb_core.data.named_set import NamedSet
from vpfb_core.data.source import Source
from vpfb_core.data.splits import split as split_source
from vpfb_core.errors import DataError, did_you_mean
from vpfb_core.machine.file_names import expanded, real
from vpfb_core.machine.noise import generator

Loader = Callable[[LoadOptions], Source]

SHUFFLED = "shuffled:"
ALL = "all"
TEST_FRACTION, _TEST_SEED = 0.2, 0  # of the sets that come without a split


def registered() -> dict[str, NamedSet]:
    """The data sets of all modules in `sets`, by name; controls come last."""
    modules = [
        importlib.import_module(f"{sets.__name__}.{found.name}") for found in pkgutil.iter_modules(sets.__path__)
    ]
    named: list[NamedSet] = [entry for module in modules for entry in module.SETS]
    return {entry.name: entry for entry in sorted(named, key=lambda entry: entry.control)}


SETS = registered()
ALIASES = {alias: entry.name for entry in SETS.values() for alias in entry.aliases}


def resolve(source: str) -> Loader:
    """The loader for what a user typed: a name in `SETS`, or a path, perhaps with a split.

    Raises:
        DataError: there is no such set, split, folder or file, or the file is of no kind that can be read.
    """
    if source == SHUFFLED:
        raise DataError(f"'{source}' names no set to shuffle", hint=f"for example {SHUFFLED}mnist")
    if source.startswith(SHUFFLED):
        return partial(_load_shuffled, resolve(source.removeprefix(SHUFFLED)))
    if held.is_held(source):
        return partial(held.held, source)
    name, split = split_off(source)
    if (known := ALIASES.get(name, name)) in SETS and split in (None, *SPLITS):
        return partial(_load_named, SETS[known], split)
    if (path := _existing(source)) is not None:
        return _path_loader(path)
    if known not in SETS and split is not None and (path := _existing(name)) is not None and path.is_dir():
        if split == ALL:
            return partial(folder.load_folder, path)
        if (part := sub_folder_of_part(path, split)) is None:
            raise DataError(f"'{name}' has no sub-folder '{split}'", hint=f"'{name}' alone takes all of it")
        return partial(folder.load_folder, part)
    raise _unknown(source)


def split_off(source: str) -> tuple[str, str | None]:
    """Name and split of a source: "mnist:test" → ("mnist", "test"); without a split → (source, None).

    A split is "train", "val", "test" or "all", also where it is typed in another spelling, such as photos:Testing.
    """
    name, colon, typed = source.rpartition(":")
    split = ALL if typed == ALL else part_of_name(typed)
    return (name, split) if colon and split else (source, None)


def canonical(source: str) -> str:
    """The name of a set without alias and split, by which two sources are recognised as one set."""
    name, _ = split_off(source)
    return ALIASES.get(name, name)


def absolute(source: str) -> str:
    """The source with an absolute path, without links, ~ or a slash at the end; a name without alias.

    Two sources that are equal then are the same data in every working folder. What does not exist stays as it is.
    """
    if source.startswith(SHUFFLED):
        return f"{SHUFFLED}{absolute(source.removeprefix(SHUFFLED))}"
    name, split = split_off(source)
    ending = f":{split}" if split else ""
    if canonical(source) in SETS:
        return f"{canonical(source)}{ending}"
    for typed, rest in ((source, ""), (name, ending)):
        with contextlib.suppress(DataError):
            if (path := _existing(typed)) is not None:
                return f"{real(path)}{rest}"
    return source


def exists(source: str) -> bool:
    """Whether a source can be resolved; its files may be unreadable all the same."""
    try:
        resolve(source)
    except DataError:
        return False
    return True


def has_splits(source: str) -> bool:
    """Whether a source has train and test splits: a named set with splits of its own, or a folder that is divided."""
    if (known := SETS.get(canonical(source))) is not None:
        return known.files is not None
    path = _existing(split_off(source)[0])
    if path is None or not path.is_dir():
        return False
    division = division_of(path)
    return division is not None and not division.doubt


def identity(source: str) -> str:
    """A name that is the same for all spellings of a data set: its aliases, its splits and the forms of its path."""
    name = canonical(source)
    if name in SETS:
        return name
    plain, _ = split_off(source)
    if plain.partition(":")[0] != plain and not Path(plain).exists():  # a made data set such as shuffled:NAME
        return name
    return str(real(expanded(plain)))


def same_set(one: str, other: str) -> bool:
    """Whether two sources are the same data set, possibly with different splits."""
    return identity(one) == identity(other)


def part_of(source: str, default: str) -> str | None:
    """The split that a source names, else `default` if the data set has splits, else None for the whole set."""
    return split_off(source)[1] or (default if has_splits(source) else None)


def _is_path(source: str) -> bool:
    """Whether the source is written as a path: with a separator, or as ., .. or ~."""
    return source in (".", "..", "~") or "/" in source or os.sep in source


def _load_named(entry: NamedSet, split: str | None, options: LoadOptions) -> Source:
    if options.split == ALL:
        options = replace(options, split=None)
    if options.split == "val":
        raise DataError(
            f"'{entry.name}' has no split 'val'", hint=f"there are {entry.name}:train and {entry.name}:test"
        )
    if entry.files is not None:
        return entry.load(replace(options, split=split or options.split))
    if split is not None:
        return _fixed_part(entry, split, options)
    images = entry.load(options)
    if options.split == "test" and not entry.control:
        note = f"'{entry.name}' is not divided, so all of it is used ('{entry.name}:test' is a fixed fifth)"
        return replace(images, notes=(*images.notes, note))
    return images


def _fixed_part(entry: NamedSet, split: str, options: LoadOptions) -> Source:
    """The test fifth, or the rest, of a set without splits.

    It is chosen at the set's own size, so that the same images are in it at any size.
    """
    train, test = split_source(entry.load(LoadOptions()), TEST_FRACTION, _TEST_SEED)
    rows = test if split == "test" else train
    part = entry.load(replace(options, limit=None)).subset(rows[options.rows(len(rows))])
    note = f"{len(rows):,} of them, from a fixed split into {len(train)} and {len(test)}"
    return replace(part, notes=(*part.notes, note, *options.cut(len(rows))))


def _load_shuffled(load: Loader, options: LoadOptions) -> InMemory:
    """The images of another source, the pixels of each in a random order of its own: same colours, no structure.

    Raises:
        DataError: the source is a table, whose columns have different meanings.
    """
    original = load(options).in_memory()
    if original.data.ndim != 4:
        raise DataError(f"'{original.name}' holds {original.noun}, and {SHUFFLED}NAME is for images")
    images = original.data.clone()
    for i, image in enumerate(images):
        pixels = image.flatten(1)
        pixels[:] = pixels[:, torch.randperm(pixels.shape[1], generator=generator(0, "shuffled", i))]
    return replace(original, data=images, root=None, notes=(*original.notes, "the pixels of each image are shuffled"))


def _path_loader(path: Path) -> Loader:
    if path.is_dir():
        return partial(_load_folder, path)
    ending = path.suffix.lower()
    if path.is_file() and ending in arrays.ENDINGS:
        return partial(arrays.load_arrays, path)
    if path.is_file() and ending in decoding.ENDINGS:
        return partial(folder.load_image_file, path)
    if path.is_file() and ending in table_files.ENDINGS:
        return partial(table_loading.load_table, path)
    raise DataError(
        f"'{path}' is neither a folder, nor an image, .npy, .npz, .csv, .tsv or .parquet file",
        hint="unpack an archive first and name its folder" if ending in (".zip", ".tar", ".gz", ".tgz") else None,
    )


def _load_folder(path: Path, options: LoadOptions) -> Source:
    """A folder, or one part of a folder that is divided into training, validation and test data."""
    division = None if options.split == ALL else division_of(path)
    if division is None:
        return folder.load_folder(path, options)
    if division.doubt:
        images = folder.load_folder(path, options)
        return replace(images, notes=(*images.notes, division.doubt))
    return folder.load_division(division, options)


def _existing(source: str) -> Path | None:
    """The path that the source names, if it exists."""
    try:
        path = Path(expanded(source))
        return path if source and path.exists() else None
    except OSError as error:
        message = f"'{source}' cannot be opened: {error.strerror or error}"
        raise DataError(message, hint="check its spelling and permissions") from error


def _unknown(source: str) -> DataError:
    name, colon, split = source.partition(":")
    if colon and ALIASES.get(name, name) in SETS:
        return DataError(f"'{name}' has no split '{split}'", hint=f"there are {name}:train and {name}:test")
    if _is_path(source):
        return DataError(
            f"no folder or file '{source}'", hint="check its spelling; a relative path starts at the current folder"
        )
    names = [*SETS, *ALIASES, f"{SHUFFLED}NAME"]
    near = did_you_mean(split_off(source)[0].lower(), names)
    return DataError(
        f"no data set, folder or file named '{source}'",
        hint=f"{near}data sets: {', '.join(names)}; or the path of a folder of images, an image, an array or a table",
    )
