"""Atomic writing of files, and the user's cache folder.

A file is written under a temporary name in the same folder, flushed to disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vpfb_core.errors import DataError

_PREFIX, _SUFFIX = ".vpfb-", ".part"  # the beginning and the end of temporary names


class Writer:
    """A file that is being written. An error in writing it is raised as a DataError."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, content: bytes) -> None:
        """Append to the file. Raises DataError if it cannot be written."""
        with _named(self._path):
            self._file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Writer]:
    """Open a file for writing that takes the name `path` only when it is complete and on disk.

    Missing folders are created. If anything fails, the file that was at `path` before stays as it was.

    Raises:
        DataError: the file cannot be written: no permission, no space, or `path` is a folder or a device.
    """
    with _appearing(path) as file:
        yield Writer(file, path)
        with _named(path):
            file.flush()
            os.fsync(file.fileno())
    flush_names(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of `content` to `path`, or nothing. Errors are those of `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_quickly(path: Path, content: bytes) -> None:
    """As `write_bytes`, but without waiting for the disk: after many files, call `flush_names` once."""
    with _appearing(path) as file:
        Writer(file, path).write(content)


def flush_names(folder: Path) -> None:
    """Flush the names in a folder to disk, so that a power failure does not undo a rename.

    On a system that cannot flush a folder, nothing happens.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder() -> Path:
    """The folder of files that can be computed or downloaded again: XDG_CACHE_HOME/vpfb, else ~/.cache/vpfb."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "vpfb"


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder. No other process may be writing to the folder."""
    for left in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        left.unlink(missing_ok=True)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A new file under a temporary name, which becomes `path` when the context ends without an error."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_replaceable(path)
        temporary = path.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
        # The system applies the umask to this mode. Python could read the umask only by setting it for all threads.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        file = os.fdopen(handle, "wb")
        try:
            yield file
        finally:
            with _named(path):
                file.close()
        with _named(path):
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Inside this context, an error of the file system is a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _require_replaceable(path: Path) -> None:
    """Raise DataError unless `path` is free or a regular file.

    Renaming would also replace a pipe or, for the root user, /dev/null itself.
    """
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a folder")
    if (path.exists() and not path.is_file()) or path.parent.resolve() == Path("/dev"):
        raise DataError(f"cannot write {path}: it is not a file", hint="name a file; standard output is -")
