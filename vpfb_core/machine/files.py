"""Atomic writing of files, checks of where they go, and the user's cache folder.

A file is written under a temporary name in the same folder, flushed to disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.file_names import home, real

# Endings of names that people give to files, but not to folders.
_OF_FILES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg", ".pdf", ".csv", ".tsv", ".txt",
        ".json", ".html", ".htm", ".md", ".toml", ".yaml", ".log", ".npz", ".npy", ".parquet", ".safetensors", ".pt",
        ".pth", ".ckpt", ".zip", ".mp4",
    }
)  # fmt: skip
_PREFIX, _SUFFIX = ".vpfb-", ".part"  # the beginning and the end of temporary names


class Writer:
    """A file that is being written. An error in writing it is raised as a DataError."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, content: bytes) -> int:
        """Append to the file and return the number of bytes. Raises DataError if it cannot be written."""
        with _named(self._path):
            self._file.write(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is complete. Libraries call this."""


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
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, which take their names when all of them are on disk. Errors are those of `replacing`."""
    with contextlib.ExitStack() as files:
        for path, content in contents.items():
            file = files.enter_context(_appearing(path))
            with _named(path):
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    for folder in {path.parent for path in contents}:
        flush_names(folder)


@contextlib.contextmanager
def filling(folder: Path, older: Collection[Path]) -> Iterator[Path]:
    """A new folder whose files move to `folder` when the context ends, in the place of older ones there.

    Missing folders are created. If anything fails, the files in `folder` stay as they were.

    Raises:
        DataError: files cannot be written to the folder.
    """
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        yield beside
        with _named(folder):
            new = [path.replace(folder / path.name) for path in sorted(beside.iterdir())]
            for path in set(older).difference(new):
                path.unlink(missing_ok=True)
    except DataError as error:
        raise DataError(error.message.replace(str(beside), str(folder)), hint=error.hint) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    flush_names(folder)


def write_quickly(path: Path, content: bytes) -> None:
    """As `write_bytes`, but without waiting for the disk: after many files, call `flush_names` once."""
    with _appearing(path) as file:
        Writer(file, path).write(content)


def require_writable(path: Path) -> None:
    """Check that a file can be written at `path`, before the work whose result it will hold. Nothing is left behind.

    Raises:
        DataError: it cannot be written, as for `replacing`.
    """
    with _named(path):
        _require_replaceable(path)
        _try_to_write(path, path.parent)


def require_writable_folder(path: Path) -> None:
    """Check that files can be written to a folder, which may be missing, before the work. Nothing is left behind.

    Raises:
        DataError: it is something else than a folder, or cannot be written to or made.
    """
    with _named(path):
        if _exists(path) and not path.is_dir():
            raise DataError(f"cannot write to {path}: it is not a folder", hint="name a new folder or an existing one")
        _try_to_write(path, path)


def require_output_folder(path: Path) -> None:
    """As `require_writable_folder`, for an output that is a folder and may have been mistaken for a file.

    Raises:
        ConfigError: there is no such folder yet, and the name is that of a file: report.csv.
        DataError: as for `require_writable_folder`.
    """
    require_writable_folder(path)
    if path.suffix.lower() in _OF_FILES and not path.is_dir():
        raise ConfigError(
            f"cannot write to {path}: the output is a folder, and the name is that of a {path.suffix} file",
            hint=f"name a folder, such as {path.with_suffix('')}",
        )


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
    """The folder of files that can be computed or downloaded again: XDG_CACHE_HOME/vpfb, else ~/.cache/vpfb.

    A user without a home folder, or with one that takes no files, gets a folder under the temporary one, and is warned.

    Raises:
        DataError: that folder belongs to another user.
    """
    cache, own = os.environ.get("XDG_CACHE_HOME", ""), home()
    if Path(cache).is_absolute():
        return Path(cache) / "vpfb"
    if own is not None and _can_hold(own / ".cache" / "vpfb"):
        return own / ".cache" / "vpfb"
    return _temporary_cache("this user has no home folder" if own is None else f"the home folder {own} takes no files")


@functools.cache
def _temporary_cache(reason: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"vpfb-{os.getuid()}"
    if _exists(folder) and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise DataError(f"{reason}, and {folder} belongs to another user", hint="set XDG_CACHE_HOME to a folder")
    warnings.warn(f"{reason}, so downloads and caches go to {folder}; XDG_CACHE_HOME names another", stacklevel=2)
    return folder


def _can_hold(folder: Path) -> bool:
    """Whether a folder exists, or can be made."""
    try:
        if _exists(folder):
            return True
        while not _exists(folder):
            folder = folder.parent
    except OSError:
        return False
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder. No other process may be writing to the folder."""
    for left in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        left.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what a killed process has left."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


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
        raise DataError(f"cannot write {path}: it is a folder", hint="name a file in it")
    if (path.exists() and not path.is_file()) or real(path.parent) == Path("/dev"):
        raise DataError(f"cannot write {path}: it is not a file", hint="name a file; standard output is -")


def _exists(path: Path) -> bool:
    """Whether there is anything at `path`. Raises OSError where that cannot be known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _try_to_write(path: Path, folder: Path) -> None:
    """Write a temporary file to a folder, or to the nearest folder above it that exists, and remove the file.

    The permissions alone do not tell: the root user has them all, and some file systems take no files.

    Args:
        path: the path that is to be written, of which no part may be too long.
        folder: the folder in which it is.
    """
    while not _exists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise OSError(errno.ENOTDIR, f"{folder} is not a folder")
    if any(len(os.fsencode(part)) > os.pathconf(folder, "PC_NAME_MAX") for part in path.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
    except FileNotFoundError as error:
        raise OSError(error.errno, f"no file can be made in {folder}") from error
    os.close(handle)
    Path(name).unlink()
