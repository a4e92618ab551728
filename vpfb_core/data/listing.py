"""The image files of a folder, without those that are not data: files of vpfb, and folders of other programs."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vpfb_core.data.decoding import ENDINGS
from vpfb_core.data.labelling import listed
from vpfb_core.data.own_files import MARKED, is_own_picture, is_run, is_sample_name
from vpfb_core.data.stacking import in_order
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.file_names import real

# Folders of thumbnails, deleted files and archives that other programs leave, in lower case. Those whose names start
# with a dot are never read.
FOREIGN = frozenset({
    "@eadir", "@recycle", "#recycle", "#snapshot", "@__thumb", "$recycle.bin", "recycler", "system volume information",
    "lost+found", "__macosx", "__pycache__", "thumbnails", "thumbnail", "_thumbnails", "thumbs", "_thumbs",
})  # fmt: skip


@dataclass
class Listing:
    """The content of a folder.

    Attributes:
        files: the image files, relative to the folder, with slashes.
        sizes: the sizes of the image files in bytes.
        others: the number of other files by ending.
        skipped: (name, reason) of files and folders that could not be listed.
        outside: the links that lead out of the folder.
        total: the number of image files before some were chosen, if some were.
        held_out: those of the files that are in a folder of validation data.
        runs: the run folders, which are left out.
        foreign: the folders of other programs, which are left out.
        own: the pictures of vpfb, which are left out.
        drawn: whether all the files are pictures of vpfb.
    """

    files: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    total: int | None = None
    held_out: frozenset[str] = frozenset()
    runs: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    drawn: bool = False

    def below(self, folder: str) -> Listing:
        """The same listing, with all names relative to the folder that contains `folder`."""
        return replace(
            self,
            files=[f"{folder}/{file}" for file in self.files],
            sizes={f"{folder}/{file}": size for file, size in self.sizes.items()},
            skipped=[(f"{folder}/{file}", reason) for file, reason in self.skipped],
            outside=[f"{folder}/{file}" for file in self.outside],
            runs=[f"{folder}/{file}" for file in self.runs],
            foreign=[f"{folder}/{file}" for file in self.foreign],
            own=[f"{folder}/{file}" for file in self.own],
        )

    def joined(self, other: Listing) -> Listing:
        """This listing together with another one of files in the same folder."""
        return Listing(
            files=sorted(self.files + other.files),
            sizes=self.sizes | other.sizes,
            others=self.others + other.others,
            skipped=self.skipped + other.skipped,
            outside=self.outside + other.outside,
            runs=self.runs + other.runs,
            foreign=self.foreign + other.foreign,
            own=self.own + other.own,
            drawn=self.drawn and other.drawn,
        )

    def notes(self) -> tuple[str, ...]:
        """Sentences about what was left out, and what was found beside images."""
        notes = []
        if self.runs:
            notes.append(f"left out {counted(len(self.runs), 'runs')} of vpfb: {listed(self.runs)}")
        if self.own:
            notes.append(f"left out {counted(len(self.own), 'pictures')} that vpfb wrote: {listed(self.own)}")
        if self.foreign:
            notes.append(f"left out {counted(len(self.foreign), 'folders')} of other programs: {listed(self.foreign)}")
        if self.drawn:
            notes.append("all of these images were written by vpfb")
        if self.outside:
            notes.append(f"links that lead out of the folder and are followed: {listed(self.outside)}")
        if self.others:
            notes.append(f"ignored other files: {counted_endings(self.others)}")
        return tuple(notes)


def list_images(root: Path) -> Listing:
    """The image files below root, sorted.

    Names that start with a dot, folders of other programs (`FOREIGN`) and run folders are left out. Pictures that vpfb
    wrote are left out where there are others; where there are none, samples are kept, and grids where there are no
    samples. Links to folders are followed after all real folders and never into a folder seen before, so that loops end
    and an image is listed under the folder that it is really in.

    Raises:
        DataError: root itself cannot be listed.
    """
    found = Listing()
    files = sorted(_walk(root, found))
    marked = [file for file in files if PurePosixPath(file).suffix.lower() in MARKED]
    ours = in_order(lambda i: is_own_picture(root / marked[i]), len(marked), 0)
    own = {file for file, is_own in zip(marked, ours, strict=True) if is_own}
    if own and len(own) == len(files):
        found.drawn = True
        samples = {file for file in own if is_sample_name(PurePosixPath(file).name)}
        own = own - samples if samples else set()
    found.own = sorted(own)
    found.files = [file for file in files if file not in own]
    return found


def has_images(root: Path) -> bool:
    """Whether there is an image below a folder that vpfb did not write. It stops at the first one.

    Raises:
        DataError: the folder cannot be listed.
    """
    return any(not is_own_picture(root / file) for file in _walk(root, Listing()))


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is one of another program that contains no data."""
    return name.startswith(".") or name.lower() in FOREIGN


def counted_endings(endings: Counter[str]) -> str:
    """The number of files per ending, in one line."""
    return listed([f"{count:,} {ending or 'without ending'}" for ending, count in endings.most_common()])


def _walk(root: Path, found: Listing) -> Iterator[str]:
    """The image files below root, in the order in which they are found. Everything else is recorded in `found`."""
    folders, links, seen = deque([""]), deque[str](), set[tuple[int, int]]()
    inside = real(root)
    while folders or links:
        folder = (folders or links).popleft()
        try:
            status = (root / folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                message = f"'{root}' cannot be listed: {error.strerror or error}"
                raise DataError(message, hint="a folder needs the permissions r and x (ls -ld shows them)") from error
            found.skipped.append((folder + "/", f"cannot be listed: {error.strerror or error}"))
            continue
        if folder and is_run({entry.name for entry in entries}):
            found.runs.append(folder)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            mode, size, trouble = _file_type(entry)
            if stat.S_ISDIR(mode):
                if is_foreign(entry.name):
                    found.foreign.append(name)
                    continue
                (links if entry.is_symlink() else folders).append(name)
            elif (ending := Path(entry.name).suffix.lower()) not in ENDINGS:
                found.others[ending] += 1
                continue
            elif stat.S_ISREG(mode):
                found.sizes[name] = size
                yield name
            else:
                found.skipped.append((name, trouble))
                continue
            if entry.is_symlink() and not real(entry.path).is_relative_to(inside):
                found.outside.append(name)


def _file_type(entry: os.DirEntry[str]) -> tuple[int, int, str]:
    """The mode and the size of the target of an entry (0 if there is none), and the reason why it cannot be read."""
    try:
        status = entry.stat()
        return status.st_mode, status.st_size, "not a regular file"
    except FileNotFoundError:
        return 0, 0, "its link leads nowhere"
    except OSError as error:
        return 0, 0, error.strerror or str(error)
