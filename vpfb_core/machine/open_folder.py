"""A folder that is found again after it was renamed, while a process works in it."""

from __future__ import annotations

import fcntl
import os
import sys
import warnings
from pathlib import Path

from vpfb_core.errors import DataError

_F_GETPATH, _LONGEST_PATH = 50, 1024  # of fcntl on macOS, which Python 3.11 does not name on every system


class OpenFolder:
    """A folder that this process keeps open, so that a new name or path on its file system is noticed.

    Args:
        path: the path of the folder, which must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def path(self) -> Path:
        """The present path of the folder, relative to the current folder if it is in there.

        A warning names a new path.

        Raises:
            DataError: the folder was removed, or moved to another file system.
        """
        if self._is_at(self._path):
            return self._path
        found = self._path_of_handle()
        if not self._is_at(found):
            raise DataError(f"the folder {self._path} was removed while it was written to")
        found = found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
        warnings.warn(f"the folder {self._path} is now {found}", stacklevel=2)
        self._path = found
        return found

    def close(self) -> None:
        """Close the folder."""
        os.close(self._handle)

    def _is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(path.stat(), os.fstat(self._handle))
        except OSError:
            return False

    def _path_of_handle(self) -> Path:
        """The path that the system knows for the open folder; of a removed one it is none that exists."""
        if sys.platform == "darwin":
            return Path(os.fsdecode(fcntl.fcntl(self._handle, _F_GETPATH, bytes(_LONGEST_PATH)).rstrip(b"\0")))
        return Path(f"/proc/self/fd/{self._handle}").readlink()
