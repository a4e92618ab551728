"""Moving and copying of files to another folder. Nothing is overwritten, and no file is lost if anything fails.

Every file is first placed in the new folder, as a hard link or a complete copy, and only when all of them are there are
they removed from the old one. If a file cannot be placed, those that were are removed again, and nothing has happened.
"""

from __future__ import annotations

import errno
import filecmp
import itertools
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.file_names import real
from vpfb_core.machine.files import flush_names

# Errors of a system that cannot link a file to its new path, but may copy it there: another file system, one without
# links, or a file of another user.
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True)
class Relocation:
    """A file and its new path.

    Attributes:
        name: the name of the file, relative to its folder.
        source: its path.
        target: its new path.
        renamed: whether its own name was taken in the new folder.
    """

    name: str
    source: Path
    target: Path
    renamed: bool


def plan(root: Path, names: Iterable[str], folder: Path, *, moves: bool) -> list[Relocation]:
    """The new paths of files below `folder`, with the same sub-folders. Nothing is written.

    A name that is taken there gets a number: a-2.png. A copy that is already there is left out.

    Args:
        root: the folder of the files.
        names: the names of the files, relative to root.
        folder: the new folder, which may be missing.
        moves: whether the files are to be moved. Otherwise they are to be copied.
    Raises:
        ConfigError: the new folder is in that of the files, or a file to be moved is outside of its folder.
    """
    inside = real(root)
    if real(folder).is_relative_to(inside):
        raise ConfigError(
            f"{folder} is in {root}, where the files would be found again", hint="choose a folder outside of it"
        )
    taken: set[str] = set()
    relocations = []
    for name in names:
        source, target = root / name, folder / name
        if moves and not real(source.parent).is_relative_to(inside):
            raise ConfigError(
                f"{source} is really in {real(source.parent)}, outside of {root}",
                hint="copy it, or move it by hand",
            )
        if not moves and target.is_file() and filecmp.cmp(source, target, shallow=False):
            taken.add(_folded(target))
            continue
        candidates = itertools.chain([target], (_numbered(target, number) for number in itertools.count(2)))
        free = next(each for each in candidates if _folded(each) not in taken and not os.path.lexists(each))
        taken.add(_folded(free))
        relocations.append(Relocation(name, source, free, renamed=free != target))
    return relocations


def copy(relocations: Sequence[Relocation]) -> None:
    """Copy files to their new paths, all or none.

    Raises:
        DataError: a file cannot be read or written, or its new path has been taken. No copy is left behind.
    """
    _create_all(relocations, _copied, "copied")


def move(relocations: Sequence[Relocation]) -> None:
    """Move files to their new paths. Every file is at one of its two paths afterwards, whatever happens.

    Raises:
        DataError: a file cannot be created, and none was moved; or a file cannot be removed from its old path, and
            those before it were moved.
    """
    _create_all(relocations, _linked, "moved")
    try:
        for each in relocations:
            each.source.unlink()
    except BaseException as error:
        remaining = [each for each in relocations if os.path.lexists(each.source)]
        for each in remaining:
            each.target.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise DataError(
            f"cannot move {remaining[0].source}: {error.strerror or error}; "
            f"{len(relocations) - len(remaining):,} of {len(relocations):,} files were moved"
        ) from error
    for parent in {each.source.parent for each in relocations}:
        flush_names(parent)


def _create_all(relocations: Sequence[Relocation], create: Callable[[Path, Path], None], done: str) -> None:
    """Create all files at their new paths, or none. `done` is the word for it in an error."""
    made: list[Path] = []
    folders: list[Path] = []
    try:
        for each in relocations:
            try:
                folders += _new_folders(each.target.parent)
                create(each.source, each.target)
                made.append(each.target)
            except OSError as error:
                raise DataError(f"cannot write {each.target}: {error.strerror or error}; nothing was {done}") from error
        for parent in {path.parent for path in made}:
            flush_names(parent)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        for path in reversed(folders):
            with suppress(OSError):
                path.rmdir()
        raise


def _new_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; the ones that are new, from the top."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _linked(source: Path, target: Path) -> None:
    """Create a file under another name, by a hard link or a copy. A symbolic link leads to the same file as before."""
    if source.is_symlink():
        target.symlink_to(os.path.abspath(real(source.parent) / source.readlink()))  # noqa: PTH100
        return
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _copied(source, target)


def _copied(source: Path, target: Path) -> None:
    """Copy the content of a file to a new file, with its times and permissions, and wait until it is on disk."""
    with source.open("rb") as read, target.open("xb") as written:
        try:
            shutil.copyfileobj(read, written)
            written.flush()
            os.fsync(written.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    with suppress(OSError):  # not all file systems keep them
        shutil.copystat(source, target)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _folded(path: Path) -> str:
    """The path as a file system sees it that does not distinguish upper and lower case, or the forms of accents."""
    return unicodedata.normalize("NFC", str(path)).casefold()
