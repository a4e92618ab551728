"""A folder of image files of any kind and nesting, or one image file, as an `ImageSet`."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from vpfb_core.data.decoding import ENDINGS, Header, UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.data.framing import choose_size
from vpfb_core.data.images import ImageSet, LoadOptions
from vpfb_core.data.labelling import TABLE, listed, printable, read_labels
from vpfb_core.data.stacking import in_order, stack
from vpfb_core.errors import DataError

TOLERATED = 0.05  # share of unreadable image files up to which they are skipped


def load_folder(root: Path, options: LoadOptions) -> ImageSet:
    """Every image below a folder, in the order of their paths.

    Raises:
        DataError: no images, more than 5 % of them unreadable, or `conditional` without classes.
    """
    found = list_images(root)
    if not found.files:
        others = f"; it holds {_counted(found.others)}" if found.others else ""
        unread = f"; unreadable: {_reasons(found.skipped)}" if found.skipped else ""
        raise DataError(
            f"no images in '{root}'{others}{unread}",
            hint="images are found in sub-folders too, by their ending: .png, .jpg, .webp, .gif, .tif, …",
        )
    return _load(root, found, options)


def load_image_file(path: Path, options: LoadOptions) -> ImageSet:
    """One image file, as a set of one.

    Raises:
        DataError: the file is unreadable, or `conditional`: one picture has no classes.
    """
    if options.conditional:
        raise DataError(f"'{path}' is a single image and has no classes", hint="leave --conditional out")
    return _load(path.parent, Listing(files=[path.name]), options)


@dataclass
class Listing:
    """What a folder holds: image files (relative, with slashes), others by ending, and what could not be listed."""

    files: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def list_images(root: Path) -> Listing:
    """The image files below root, sorted; names that start with a dot are left out.

    Links to folders are followed, after all real folders and never into a folder seen before, so that loops end and a
    picture keeps the name of the folder that it is really in.

    Raises:
        DataError: root itself cannot be listed.
    """
    found = Listing()
    folders, links, seen = deque([""]), deque[str](), set[tuple[int, int]]()
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
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            mode, trouble = _file_type(entry)
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else folders).append(name)
            elif (ending := Path(entry.name).suffix.lower()) not in ENDINGS:
                found.others[ending] += 1
            elif stat.S_ISREG(mode):
                found.files.append(name)
            else:
                found.skipped.append((name, trouble))
    found.files.sort()
    return found


def _file_type(entry: os.DirEntry[str]) -> tuple[int, str]:
    """The mode of what an entry leads to (0: nothing), and why it would be no file to read."""
    try:
        return entry.stat().st_mode, "not a regular file"
    except FileNotFoundError:
        return 0, "its link leads nowhere"
    except OSError as error:
        return 0, error.strerror or str(error)


def _load(root: Path, found: Listing, options: LoadOptions) -> ImageSet:
    labels = read_labels(root, found.files) if options.conditional else None  # first: it fails fast
    with warnings_silenced():
        files, skipped, size, only_grey = found.files, found.skipped, options.size, False
        if size is None:
            headers = list(in_order(lambda i: _try_header(root / files[i]), len(files), options.workers))
            good = [header for header in headers if isinstance(header, Header)]
            if not good:
                bad = [(file, str(reason)) for file, reason in zip(files, headers, strict=True)]
                raise _too_many(root, skipped + bad, len(files) + len(skipped))
            only_grey = all(header.grey for header in good)
            planes = options.channels or (1 if only_grey else 3)
            size = choose_size([header.shape for header in good], len(good), planes, options.max_size)
        taken = stack(
            lambda i: read_picture(root / files[i], size),
            len(files),
            size=size,
            channels=options.channels,
            only_grey=only_grey,
            workers=options.workers,
        )
    unread = skipped + [(files[i], reason) for i, reason in taken.skipped]
    total = len(files) + len(skipped)
    if len(unread) > TOLERATED * total or not taken.kept:
        raise _too_many(root, unread, total)

    notes = list(taken.notes)
    if unread:
        notes.append(f"skipped {len(unread):,} unreadable file{'s' if len(unread) > 1 else ''}: {_reasons(unread)}")
    if found.others and (others := found.others - Counter([Path(TABLE).suffix] if labels else [])):
        notes.append(f"ignored other files: {_counted(others)}")
    return ImageSet(
        name=str(root),
        images=taken.images,
        labels=None if labels is None else labels.labels[list(taken.kept)],
        groups=() if labels is None else labels.groups,
        flips=True,
        notes=(*notes, *(labels.notes if labels else ())),
        skipped=tuple((printable(file), reason) for file, reason in unread),
        files=tuple(printable(files[i]) for i in taken.kept),
    )


def _try_header(path: Path) -> Header | UnreadableError:
    try:
        return read_header(path)
    except UnreadableError as error:
        return error


def _too_many(root: Path, unread: list[tuple[str, str]], total: int) -> DataError:
    count = "none" if len(unread) == total else f"only {total - len(unread):,}"
    files = "image file" if total == 1 else "image files"
    return DataError(
        f"{count} of the {total:,} {files} in '{root}' can be read: {_reasons(unread)}",
        hint=f"remove or repair them; up to {TOLERATED:.0%} unreadable files are skipped",
    )


def _reasons(unread: list[tuple[str, str]]) -> str:
    return listed([f"{printable(file)} ({reason})" for file, reason in unread])


def _counted(endings: Counter[str]) -> str:
    return listed([f"{count:,} {printable(ending) or 'without ending'}" for ending, count in endings.most_common()])
