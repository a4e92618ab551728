"""Atomic writing of files, and the user's cache folder.

A file is written under a temporary name in the same folder, flushed to disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vpfb_core.errors import DataError

_PREFIX, _SUFFIX = ".vpfb-", ".part"  # the beginning and the end of temporary names


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the name `path` only when it is complete and on disk.

    Missing folders are created. If writing fails, the file that was at `path` before stays as it was.

    Raises:
        DataError: the file cannot be written: no permission, no space, or `path` is a folder or a device.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_replaceable(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX, suffix=_SUFFIX)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
        _keep_name(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of `content` to `path`, or nothing. Errors are those of `replacing`."""
    with replacing(path) as file:
        file.write(content)


def cache_folder() -> Path:
    """The folder of files that can be computed or downloaded again: XDG_CACHE_HOME/vpfb, else ~/.cache/vpfb."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "vpfb"


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder. No other process may be writing to the folder."""
    for left in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        left.unlink(missing_ok=True)


def _require_replaceable(path: Path) -> None:
    """Raise DataError unless `path` is free or a regular file.

    Renaming would also replace a pipe or, for the root user, /dev/null itself.
    """
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a folder")
    if (path.exists() and not path.is_file()) or path.parent.resolve() == Path("/dev"):
        raise DataError(f"cannot write {path}: it is not a file", hint="name a file; standard output is -")


def _keep_name(folder: Path) -> None:
    """Flush the names in a folder to disk, so that a power failure does not undo a rename.

    Systems that cannot flush a folder are left alone.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    """The umask of this process, which can only be read by setting it."""
    current = os.umask(0)
    os.umask(current)
    return current
