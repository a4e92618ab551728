"""Image files that cannot be read: how many are tolerated, and how they are told."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from vpfb_core.data.labelling import listed, printable
from vpfb_core.errors import DataError

TOLERATED = 0.05  # share of unreadable image files up to which they are skipped
_FEWEST = 200  # files to have been read before a part of a folder speaks for the rest of it
_HINT = f"remove or repair them; up to {TOLERATED:.0%} unreadable files are skipped"


def described(unread: Sequence[tuple[str, str]]) -> str:
    """(file, reason) pairs in one line; file names may hold bytes that are no text."""
    return listed([f"{printable(file)} ({reason})" for file, reason in unread])


def counted(unread: Sequence[tuple[str, str]]) -> str:
    """How many unreadable files, and which: "2 unreadable files: a.png (truncated), b.png (empty file)"."""
    return f"{len(unread):,} unreadable file{'s' if len(unread) > 1 else ''}: {described(unread)}"


def table(unread: Sequence[tuple[str, str]]) -> bytes:
    """A CSV file of all of them: file, reason."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "reason"), *unread])
    return text.getvalue().encode("utf-8", "surrogateescape")


def too_many(root: Path, unread: Sequence[tuple[str, str]], total: int) -> DataError:
    """The error of a folder of `total` image files that were all tried."""
    count = "none" if len(unread) == total else f"only {total - len(unread):,}"
    files = "image file" if total == 1 else "image files"
    return DataError(
        f"{count} of the {total:,} {files} in '{root}' can be read: {described(unread)}", hint=_HINT
    )  # fmt: skip


def too_many_so_far(root: Path, unread: Sequence[tuple[str, str]], tried: int) -> DataError:
    """The error of a folder of which only `tried` image files were tried yet."""
    return DataError(
        f"{len(unread):,} of the {tried:,} image files read so far in '{root}' cannot be read: {described(unread)}",
        hint=_HINT,
    )


def tolerable(unread: int, tried: int, total: int) -> bool:
    """Whether a folder of `total` files may hold no more than `TOLERATED` unreadable ones.

    `tried` of them were drawn at random. Three standard deviations of such a draw are left to chance, so that a folder
    with four bad files in a hundred is not refused on the way; none are once every file was tried.
    """
    if tried < min(_FEWEST, total):
        return True
    chance = TOLERATED * (1 - TOLERATED) * tried * (1 - tried / total)
    return unread <= TOLERATED * tried + 3 * math.sqrt(chance)
