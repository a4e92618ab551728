"""Writing files so that nothing is lost: beside, to disk, then renamed; and the user's cache folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vpfb_core.errors import DataError

_PREFIX, _SUFFIX = ".vpfb-", ".part"  # of temporary names


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` only once it is whole and on disk; folders are made.

    Raises:
        DataError: no permission, no space, or a folder or a device in the way. What stood at `path` before stands
            there still.
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
    """The whole of `content` at `path`, or nothing. Raises as `replacing`."""
    with replacing(path) as file:
        file.write(content)


def cache_folder() -> Path:
    """Where what can be had again is kept between calls: XDG_CACHE_HOME/vpfb, else ~/.cache/vpfb."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "vpfb"


def clear_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in a folder, to which nobody else may be writing."""
    for left in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        left.unlink(missing_ok=True)


def _require_replaceable(path: Path) -> None:
    """Only a file gives way to a file: a rename would also remove a pipe or, for root, /dev/null itself."""
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a folder")
    if (path.exists() and not path.is_file()) or path.parent.resolve() == Path("/dev"):
        raise DataError(f"cannot write {path}: it is not a file", hint="name a file; standard output is -")


def _keep_name(folder: Path) -> None:
    """Bring a folder's names to disk, so that a power cut does not undo a rename; where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
