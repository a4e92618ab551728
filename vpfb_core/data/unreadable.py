"""Image files that cannot be read: how many are tolerated, and how they are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_core.data.labelling import listed
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.csv_files import csv_lines

if TYPE_CHECKING:
    from torch import Tensor

    from vpfb_core.data.in_memory import InMemory
    from vpfb_core.data.source import Source

TOLERATED = 0.05  # fraction of unreadable image files up to which they are skipped
_FEWEST = 200  # files to try before a part of a folder says something about the rest of it
_HINT = f"remove or repair them; one unreadable file is skipped, or up to {TOLERATED:.0%}"


def described(unread: Sequence[tuple[str, str]]) -> str:
    """(file, reason) pairs in one line, with printable file names."""
    return listed([f"{file} ({reason})" for file, reason in unread])


def in_words(unread: Sequence[tuple[str, str]]) -> str:
    """The number of unreadable files and their names: "2 unreadable files: a.png (truncated), b.png (empty file)"."""
    return f"{counted(len(unread), 'unreadable files')}: {described(unread)}"


def readable(source: Source, rows: Tensor, read: InMemory) -> Tensor:
    """Those of the rows whose files could be read, int64 (M,).

    Args:
        source: the data.
        rows: rows of the data, int64 (N,).
        read: the data at these rows, `source.subset(rows)`, which lacks those whose files cannot be read.
    """
    if source.files is None or read.files is None or len(read) == len(rows):
        return rows
    files = set(read.files)
    return rows[[source.files[row] in files for row in rows.tolist()]]


def table(unread: Sequence[tuple[str, str]]) -> bytes:
    """A CSV file of (file, reason) pairs."""
    return csv_lines([("file", "reason"), *unread])


def too_many(root: Path, unread: Sequence[tuple[str, str]], total: int) -> DataError:
    """The error for a folder of `total` image files, all of which were tried."""
    if total == 1:
        file, reason = unread[0]
        return DataError(f"cannot read '{root / file}': {reason}")
    count = "none" if len(unread) == total else f"only {total - len(unread):,}"
    return DataError(f"{count} of the {total:,} image files in '{root}' can be read: {described(unread)}", hint=_HINT)


def too_many_so_far(root: Path, unread: Sequence[tuple[str, str]], tried: int) -> DataError:
    """The error for a folder of which `tried` image files were tried so far."""
    return DataError(
        f"{len(unread):,} of the {tried:,} image files read so far in '{root}' cannot be read: {described(unread)}",
        hint=_HINT,
    )


def tolerable(unread: int, tried: int, total: int) -> bool:
    """Whether a folder of `total` files may have a single unreadable one, or a fraction `TOLERATED` of them.

    `tried` of the files were drawn at random. The limit is three standard deviations of such a draw above the expected
    number, so that a folder with 4 % unreadable files is not refused by chance. It is exact when every file was tried.
    """
    chance = TOLERATED * (1 - TOLERATED) * tried * (1 - tried / total)
    return unread <= max(1, min(TOLERATED * total, TOLERATED * tried + 3 * math.sqrt(chance)))


def tolerable_so_far(unread: int, tried: int, total: int) -> bool:
    """`tolerable` while files are still being read: it is True for the first few files."""
    return tried < min(_FEWEST, total) or tolerable(unread, tried, total)
