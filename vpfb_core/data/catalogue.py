"""What a source string means: the name of a known set, a folder or a file.

A set is known by being in `SETS`. A bare word in it is that set, even where a folder of that name exists; `./digits`
is always a path.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vpfb_core.data import arrays, builtin, decoding, folder
from vpfb_core.data.images import ImageSet, LoadOptions
from vpfb_core.errors import DataError

Loader = Callable[[LoadOptions], ImageSet]


@dataclass(frozen=True)
class Entry:
    """A set known by name: what it is, in one line, and how it is loaded."""

    summary: str
    load: Loader


SETS: dict[str, Entry] = {
    "digits": Entry("1,797 handwritten digits, grey, 8×8, 10 classes; in the package", builtin.load_digits),
}


def resolve(source: str) -> Loader:
    """The loader for what a person typed: a name in `SETS`, or a path.

    Raises:
        DataError: there is no such set, folder or file, or the file is of no kind that can be read.
    """
    if source in SETS:
        return SETS[source].load
    path = _existing(source)
    if path is None:
        raise _unknown(source)
    if path.is_dir():
        return partial(folder.load_folder, path)
    ending = path.suffix.lower()
    if path.is_file() and ending in arrays.ENDINGS:
        return partial(arrays.load_arrays, path)
    if path.is_file() and ending in decoding.ENDINGS:
        return partial(folder.load_image_file, path)
    raise DataError(
        f"'{source}' is neither a folder, nor an image, .npy or .npz file",
        hint="unpack an archive first and name its folder" if ending in (".zip", ".tar", ".gz", ".tgz") else None,
    )


def is_path(source: str) -> bool:
    """Whether the source is written as a path: with a separator, or as ., .. or ~."""
    return source in (".", "..", "~") or "/" in source or os.sep in source


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
    if is_path(source):
        return DataError(
            f"no folder or file '{source}'", hint="check its spelling; a relative path starts at the current folder"
        )
    near = difflib.get_close_matches(source.lower(), SETS, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return DataError(
        f"no data set, folder or file named '{source}'",
        hint=f"{guess}data sets: {', '.join(sorted(SETS))}; or the path of a folder of images, an image, .npy or .npz",
    )
