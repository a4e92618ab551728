"""Images of many files, which are decoded on demand."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vpfb_core.data.decoding import UnreadableError, read_picture
from vpfb_core.data.framing import square
from vpfb_core.data.stacking import write_picture
from vpfb_core.data.unreadable import tolerable_so_far, too_many_so_far
from vpfb_core.errors import DataError

KEPT_BYTES = 2 * 2**30  # decoded images are kept where all of a set need at most this


class Reader:
    """A reader of images by row, for several threads.

    If all images together need at most `KEPT_BYTES`, each is decoded once and kept. Otherwise it is decoded each time.
    The result is the same.

    Args:
        root: the folder.
        files: the image files, relative to root.
        shape: the shape (C, S, S) of the decoded images.
        unreadable: (row, reason) of the files that are known to be unreadable.
    """

    def __init__(
        self, root: Path, files: Sequence[str], shape: tuple[int, int, int], unreadable: Iterable[tuple[int, str]] = ()
    ) -> None:
        self.root, self.files, self.shape = root, files, shape
        self.bytes = len(files) * math.prod(shape)
        self.keeps = self.bytes <= KEPT_BYTES
        # The operating system allocates a page when it is first written, so this grows with what has been read.
        self._pixels = np.empty((len(files) if self.keeps else 0, *shape), np.uint8)
        self._kept = np.zeros(len(files), bool)
        self._tried = np.zeros(len(files), bool)
        self._tries = 0
        self._unreadable: dict[int, str] = {}
        self._lock = threading.Lock()
        for i, reason in unreadable:
            self._note(i, reason)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(file, reason) of the files that could not be read so far, sorted by file."""
        with self._lock:
            return sorted((self.files[i], reason) for i, reason in self._unreadable.items())

    def take(self, i: int) -> np.ndarray | None:
        """Image i, uint8 (C, S, S), which must not be written to; None if its file cannot be read.

        Raises:
            DataError: the folder has disappeared, or too many of its files cannot be read.
        """
        if self._kept[i]:
            return self._pixels[i]
        if i in self._unreadable:
            return None
        pixels = self._pixels[i] if self.keeps else np.empty(self.shape, np.uint8)
        try:
            size = self.shape[-1]
            write_picture(square(read_picture(self.root / self.files[i], size), size), pixels)
        except UnreadableError as error:
            self._require_folder()
            self._note(i, str(error))
            self._require_readable()
            return None
        self._note(i, None)
        self._kept[i] = self.keeps
        return pixels

    def _note(self, i: int, reason: str | None) -> None:
        with self._lock:
            if not self._tried[i]:
                self._tried[i] = True
                self._tries += 1
            if reason is not None:
                self._unreadable[i] = reason

    def _require_folder(self) -> None:
        """Raise DataError if the whole folder has disappeared, so that the error is not that of a file."""
        try:
            with os.scandir(self.root) as entries:
                if next(entries, None) is not None:
                    return
        except OSError:
            pass
        raise DataError(
            f"the folder '{self.root}' has disappeared",
            hint="restore it as it was; vpfb train --resume auto then continues from the last saved step",
        )

    def _require_readable(self) -> None:
        unread = self.unreadable
        if not tolerable_so_far(len(unread), self._tries, len(self)):
            raise too_many_so_far(self.root, unread, self._tries)
