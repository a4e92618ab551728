"""Loading of a folder of image files of any kind and nesting, or of one image file."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from vpfb_core.data.decoding import ENDINGS, Header, UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.data.framing import choose_size
from vpfb_core.data.images import ImageSet
from vpfb_core.data.labelling import TABLE, Labels, listed, read_labels
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import Source
from vpfb_core.data.stacking import in_order, stack
from vpfb_core.data.streaming import stream, too_large
from vpfb_core.data.unreadable import TOLERATED, counted, described, too_many
from vpfb_core.errors import DataError


def load_folder(root: Path, options: LoadOptions) -> Source:
    """All images below a folder, in the order of their paths.

    With `options.stream`, a very large folder is not decoded now but read during training.

    Raises:
        DataError: the folder has no images, more than 5 % of them are unreadable, or it has no classes for
            `conditional`.
    """
    found = list_images(root)
    if not found.files:
        others = f"; it holds {_counted(found.others)}" if found.others else ""
        unread = f"; unreadable: {described(found.skipped)}" if found.skipped else ""
        raise DataError(
            f"no images in '{root}'{others}{unread}",
            hint="images are found by their ending, also in sub-folders: .png, .jpg, .webp, .gif, .tif, ...",
        )
    return _load(root, found, options)


def load_image_file(path: Path, options: LoadOptions) -> Source:
    """A set of one image file.

    Raises:
        DataError: the file is unreadable, or `conditional` is set: one image has no classes.
    """
    if options.conditional:
        raise DataError(f"'{path}' is a single image and has no classes", hint="omit --conditional")
    return _load(path.parent, Listing(files=[path.name], sizes={path.name: path.stat().st_size}), options)


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        files: image files, relative to the folder, with slashes.
        sizes: of the image files, in bytes.
        others: number of other files, by ending.
        skipped: (name, reason) of what could not be listed.
        outside: links that lead out of the folder.
    """

    files: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def list_images(root: Path) -> Listing:
    """The image files below root, sorted, without names that start with a dot.

    Links to folders are followed after all real folders and never into a folder seen before, so that loops end and an
    image is listed under the folder that it is really in.

    Raises:
        DataError: root itself cannot be listed.
    """
    found = Listing()
    folders, links, seen = deque([""]), deque[str](), set[tuple[int, int]]()
    inside = root.resolve()
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
            mode, size, trouble = _file_type(entry)
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else folders).append(name)
            elif (ending := Path(entry.name).suffix.lower()) not in ENDINGS:
                found.others[ending] += 1
                continue
            elif stat.S_ISREG(mode):
                found.files.append(name)
                found.sizes[name] = size
            else:
                found.skipped.append((name, trouble))
                continue
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                found.outside.append(name)
    found.files.sort()
    return found


def _file_type(entry: os.DirEntry[str]) -> tuple[int, int, str]:
    """Mode and size of what an entry leads to (0 for nothing), and why it would not be a readable file."""
    try:
        status = entry.stat()
        return status.st_mode, status.st_size, "not a regular file"
    except FileNotFoundError:
        return 0, 0, "its link leads nowhere"
    except OSError as error:
        return 0, 0, error.strerror or str(error)


def load_files(root: Path, found: Listing, labels: Labels | None, options: LoadOptions) -> Source:
    """All image files of a listing, with their labels; `options.limit` has been applied to it.

    Raises:
        DataError: more than 5 % of the files are unreadable.
    """
    if too_large(len(found.files), options):
        return stream(root, found.files, [found.sizes[file] for file in found.files], labels, options, found.skipped)
    return _decode(root, found.files, labels, options, found.skipped)


def _load(root: Path, found: Listing, options: LoadOptions) -> Source:
    chosen = replace(found, files=[found.files[i] for i in options.rows(len(found.files)).tolist()])
    labels = read_labels(root, chosen.files) if options.conditional else None  # before decoding, because it fails fast
    images = load_files(root, chosen, labels, options)
    notes = list(images.notes)
    if found.outside:
        notes.append(f"links that lead out of the folder and are followed: {listed(found.outside)}")
    if others := found.others - Counter([Path(TABLE).suffix] if labels else []):
        notes.append(f"ignored other files: {_counted(others)}")
    return replace(images, notes=(*notes, *(labels.notes if labels else ())))


def _decode(
    root: Path, files: list[str], labels: Labels | None, options: LoadOptions, skipped: list[tuple[str, str]]
) -> ImageSet:
    """All of the files, in memory; `skipped` are those that could not be listed."""
    total = len(files) + len(skipped)
    with warnings_silenced():
        size, only_grey = options.size, False
        if size is None:
            headers = list(in_order(lambda i: _try_header(root / files[i]), len(files), options.workers))
            good = [header for header in headers if isinstance(header, Header)]
            if not good:
                bad = [(file, str(reason)) for file, reason in zip(files, headers, strict=True)]
                raise too_many(root, skipped + bad, total)
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
    if len(unread) > TOLERATED * total or not taken.kept:
        raise too_many(root, unread, total)
    return ImageSet(
        name=str(root),
        images=taken.images,
        labels=None if labels is None else labels.labels[list(taken.kept)],
        groups=() if labels is None else labels.groups,
        flips=True,
        notes=(*taken.notes, f"skipped {counted(unread)}") if unread else taken.notes,
        skipped=tuple(unread),
        files=tuple(files[i] for i in taken.kept),
    )


def _try_header(path: Path) -> Header | UnreadableError:
    try:
        return read_header(path)
    except UnreadableError as error:
        return error


def _counted(endings: Counter[str]) -> str:
    return listed([f"{count:,} {ending or 'without ending'}" for ending, count in endings.most_common()])
