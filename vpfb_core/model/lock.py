"""The lock of a run folder, which keeps two processes from writing in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vpfb_core.errors import ConfigError, DataError
from vpfb_core.model.runs import Run, builtin_models


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Inside this context, no other process can train in the run folder.

    The system releases the lock when the process ends, however it ends.

    Raises:
        ConfigError: another process is training in the folder.
        DataError: the folder cannot be written.
    """
    handle = _opened(run.lock)
    try:
        _claim(handle, run)
        yield
    finally:
        os.close(handle)


def is_locked(run: Run) -> bool:
    """Whether a process is training in the run folder; True as well if that cannot be found out."""
    try:
        handle = os.open(run.lock, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Inside this context, a model file can be read and written again: no process trains in its run folder.

    Raises:
        ConfigError: the model is a built-in one, which is part of the package, or a process is training in its folder.
        DataError: the folder cannot be written.
    """
    if path in builtin_models().values():
        raise ConfigError(
            f"{path.stem} is a built-in model, which cannot be changed", hint="name a run or a file of your own"
        )
    run = Run(path.parent)
    with locked(run) if run.exists() else contextlib.nullcontext():
        yield


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise DataError(f"cannot write in {path.parent}: {error.strerror or error}") from error


def _claim(handle: int, run: Run) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as error:
        holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise ConfigError(
            f"another process (pid {holder}) is training in {run.path}", hint="wait for it, or choose another `out`"
        ) from error
    except OSError as error:
        raise DataError(f"cannot write in {run.path}: {error.strerror or error}") from error
