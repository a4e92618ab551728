"""Loading of a folder of image files of any kind and nesting, of a part of a divided folder, or of one image file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vpfb_core.data.copies import rows_by_digest
from vpfb_core.data.decoding import Header, UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.data.divisions import Division
from vpfb_core.data.framing import choose_size
from vpfb_core.data.images import ImageSet
from vpfb_core.data.labelling import TABLE, Labels, read_labels, read_labels_like
from vpfb_core.data.listing import Listing, counted_endings, list_images
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import Source
from vpfb_core.data.stacking import in_order, stack
from vpfb_core.data.streaming import stream, too_large
from vpfb_core.data.unreadable import described, in_words, tolerable, too_many, too_many_so_far
from vpfb_core.errors import DataError, counted

_LabelReader = Callable[[Sequence[str]], Labels]  # the labels of files, relative to the folder


def load_folder(root: Path, options: LoadOptions) -> Source:
    """All images below a folder, in the order of their paths.

    With `options.stream`, a very large folder is not decoded now but read during training.

    Raises:
        DataError: the folder has no images, too many of them are unreadable (`unreadable.tolerable`), or it has no
            classes for `conditional`.
    """
    found = list_images(root)
    _require_images(root, found)
    return _load(root, found, lambda files: read_labels(root, files), options)


def load_image_file(path: Path, options: LoadOptions) -> Source:
    """A set of one image file.

    Raises:
        DataError: the file is unreadable, or `conditional` is set: one image has no classes.
    """
    if options.conditional:
        raise DataError(f"'{path}' is a single image and has no classes", hint="train without `conditional`")
    found = Listing(files=[path.name], sizes={path.name: path.stat().st_size})
    return _load(path.parent, found, lambda files: read_labels(path.parent, files), options)


def load_division(division: Division, options: LoadOptions) -> Source:
    """The part of a divided folder that `options.split` names, by default the training part.

    The names of its files are relative to the divided folder. With `options.validation`, the training part includes the
    validation data, which are held out.

    Raises:
        DataError: there is no such part. Other errors are those of `load_folder`.
    """
    used = division.part(options.split or "train")
    others = [part for part in ("val", "test") if part in division.folders]
    validation = others[0] if options.validation and used == "train" and others else None
    root, folder = division.root, division.folders[used]
    found = list_images(root / folder)
    _require_images(root / folder, found)
    if validation is not None:
        other = division.folders[validation]
        images = _with_validation(root, folder, found.below(folder), other, list_images(root / other), options)
    else:
        images = _load(root, found.below(folder), lambda files: read_labels(root / folder, _in(folder, files)), options)
    return replace(images, notes=(division.note(used, validation), *images.notes))


def load_files(root: Path, found: Listing, labels: Labels | None, options: LoadOptions) -> Source:
    """All image files of a listing with their labels. `options.limit` must have been applied to the listing.

    Raises:
        DataError: too many of the files are unreadable.
    """
    if too_large(len(found.files), options):
        return stream(root, found, labels, options)
    return _decode(root, found, labels, options)


def _require_images(root: Path, found: Listing) -> None:
    if found.files:
        return
    others = f"; it holds {counted_endings(found.others)}" if found.others else ""
    unread = f"; unreadable: {described(found.skipped)}" if found.skipped else ""
    left_out = [note for note in replace(found, others=Counter()).notes() if note.startswith("left out")]
    raise DataError(
        f"no images in '{root}'{others}{unread}{''.join(f'; {note}' for note in left_out)}",
        hint="name a folder itself to use what was left out"
        if left_out
        else "images are found by their ending, also in sub-folders: .png, .jpg, .webp, .gif, .tif, ...",
    )


def _load(root: Path, found: Listing, read: _LabelReader, options: LoadOptions) -> Source:
    chosen = [found.files[i] for i in options.rows(len(found.files)).tolist()]
    labels = read(chosen) if options.conditional else None  # before decoding, because it fails fast
    images = load_files(root, replace(found, files=chosen, total=len(found.files)), labels, options)
    others = found.others - Counter([Path(TABLE).suffix] if labels else [])
    notes = replace(found, others=others).notes()
    cut = options.cut(len(found.files))
    return replace(images, notes=(*images.notes, *notes, *(labels.notes if labels else ()), *cut))


def _with_validation(
    root: Path, folder: str, found: Listing, other: str, validation: Listing, options: LoadOptions
) -> Source:
    """The images of `folder` and those of `other`, which are held out. Both folders are relative to root."""
    validation = validation.below(other)
    if not validation.files:
        images = _load(root, found, lambda files: read_labels(root / folder, _in(folder, files)), options)
        return replace(images, notes=(*images.notes, f"'{root / other}' holds no images"))
    held_out = frozenset(validation.files)

    def read(files: Sequence[str]) -> Labels:
        labels = read_labels(root / folder, _in(folder, [file for file in files if file not in held_out]))
        theirs = read_labels_like(labels.groups, root / other, _in(other, [file for file in files if file in held_out]))
        joined = torch.empty(len(files), len(labels.groups), dtype=torch.int64)
        is_theirs = torch.tensor([file in held_out for file in files])
        joined[~is_theirs], joined[is_theirs] = labels.labels, theirs.labels
        return Labels(joined, labels.groups, (*labels.notes, *theirs.notes))

    return _load(root, replace(found.joined(validation), held_out=held_out), read, options)


def _in(folder: str, files: Sequence[str]) -> list[str]:
    """The files, relative to the folder that contains them."""
    return [file.removeprefix(f"{folder}/") for file in files]


def _without_copies(images: ImageSet) -> ImageSet:
    """The images without those to train on that are exact copies of held-out ones.

    If none would be left to train on, all images are returned. A streamed set leaves them out of its batches instead.
    """
    if images.held_out is None:
        return images
    held_out = set(images.held_out.nonzero()[:, 0].tolist())
    same = [rows for rows in rows_by_digest(images.images).values() if not held_out.isdisjoint(rows)]
    copies = [row for rows in same for row in rows if row not in held_out]
    if not copies:
        return images
    kept = torch.ones_like(images.held_out)
    kept[copies] = False
    if torch.equal(kept, images.held_out):
        note = (
            "the images for training are exact copies of those for validation, so figures of validation are optimistic"
        )
        return replace(images, notes=(*images.notes, note))
    note = f"left out of training: {counted(len(copies), 'exact copies')} of images for validation"
    return replace(images.subset(kept), notes=(*images.notes, note), held_out=images.held_out[kept])


def _decode(root: Path, found: Listing, labels: Labels | None, options: LoadOptions) -> ImageSet:
    """All files of a listing, decoded into memory."""
    files, skipped = found.files, found.skipped
    tried, total = len(files) + len(skipped), (found.total or len(files)) + len(skipped)
    with warnings_silenced():
        size, only_grey = options.size, False
        if size is None:
            headers = list(in_order(lambda i: _try_header(root / files[i]), len(files), options.workers))
            good = [header for header in headers if isinstance(header, Header)]
            if not good:
                bad = [(file, str(reason)) for file, reason in zip(files, headers, strict=True)]
                raise too_many(root, skipped + bad, tried)
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
    if not taken.kept or not tolerable(len(unread), tried, total):
        raise too_many(root, unread, tried) if tried == total else too_many_so_far(root, unread, tried)
    kept = [files[i] for i in taken.kept]
    images = ImageSet(
        name=str(root),
        data=taken.images,
        labels=None if labels is None else labels.labels[list(taken.kept)],
        groups=() if labels is None else labels.groups,
        flips=True,
        notes=(*taken.notes, f"skipped {in_words(unread)}") if unread else taken.notes,
        skipped=tuple(unread),
        files=tuple(kept),
        root=root,
        held_out=torch.tensor([file in found.held_out for file in kept]) if found.held_out else None,
    )
    return _without_copies(images)


def _try_header(path: Path) -> Header | UnreadableError:
    try:
        return read_header(path)
    except UnreadableError as error:
        return error
