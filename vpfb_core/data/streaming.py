"""Folders that are read during training, since they have too many images to decode before, or to hold in memory.

Only a sample is read before the first step. It is chosen by the names of the files, so that size, colour and statistics
of a folder always come from the same files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vpfb_core.data.batches import Batches, Order
from vpfb_core.data.decoding import Header, UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.data.framing import MAX_BYTES, choose_size
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.images import TAKES, ImageSet
from vpfb_core.data.in_memory import InMemory, fingerprint_of
from vpfb_core.data.labelling import Labels
from vpfb_core.data.listing import Listing
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.reader import Reader
from vpfb_core.data.source import ConditionGroup, Remaining
from vpfb_core.data.stacking import in_order, stack
from vpfb_core.data.streamed_batches import StreamedBatches
from vpfb_core.data.unreadable import in_words, tolerable, too_many, too_many_so_far

STREAMED_FILES = 20_000  # a folder of more files is streamed
SAMPLE = 1_000  # files from which size, colour and statistics are found
MOST_HELD_OUT = 1_024  # images; they are decoded before the first step


@dataclass(frozen=True, eq=False)
class StreamedSet:
    """A source (`Source`) whose images stay on disk.

    Attributes:
        name: the source as the user typed it.
        reader: the reader of the N images.
        sizes: the sizes of their files in bytes.
        sample: some of the images, from which statistics are computed, uint8 (M, C, S, S).
        labels: int64 (N, G), one column per condition group, −1 where unknown; None without conditions.
        groups: the G condition groups; () if labels is None.
        flips: whether a mirrored image is as likely as the image itself.
        notes: sentences about what was decided or left out while loading.
        unlisted: (file, reason) of files that could not be opened when the folder was listed. They are not among the N.
        workers: the number of threads that decode; 0 is one per processor.
        held_out: the images to validate on, bool (N,), if the source determines them; None if they are chosen.
    """

    takes: ClassVar[frozenset[str]] = TAKES
    noun: ClassVar[str] = ImageSet.noun
    fewest: ClassVar[int] = 1

    name: str
    reader: Reader
    sizes: tuple[int, ...]
    sample: Tensor
    labels: Tensor | None = None
    groups: tuple[ConditionGroup, ...] = ()
    flips: bool = True
    notes: tuple[str, ...] = ()
    unlisted: tuple[tuple[str, str], ...] = ()
    workers: int = 0
    held_out: Tensor | None = None

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, S, S) of each image."""
        return self.reader.shape

    @property
    def files(self) -> tuple[str, ...]:
        """The file of each image, relative to the folder, whether it can be read or not."""
        return tuple(self.reader.files)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(file, reason) of each unreadable file that has been found so far. It grows while images are read."""
        return (*self.unlisted, *self.reader.unreadable)

    @property
    def chosen(self) -> dict[str, Any]:
        """The size and the channels."""
        return {"size": self.shape[-1], "channels": self.shape[0]}

    def statistics(self) -> ImageStatistics:
        """The statistics of `sample`."""
        return ImageStatistics.of(self.sample)

    def in_memory(self) -> ImageSet:
        """All images that can be read."""
        return self.subset(torch.arange(len(self)))

    def subset(self, rows: Tensor) -> ImageSet:
        """The images at `rows`, int64 (M,) or bool (N,), in memory and in that order. Unreadable ones are left out.

        Raises:
            DataError: the folder has disappeared, or too many of its files cannot be read.
        """
        wanted = torch.arange(len(self))[rows].tolist()
        with warnings_silenced():
            taken = list(in_order(lambda k: self.reader.take(wanted[k]), len(wanted), self.workers))
        kept = [row for row, pixels in zip(wanted, taken, strict=True) if pixels is not None]
        readable = [pixels for pixels in taken if pixels is not None]
        images = np.stack(readable) if readable else np.empty((0, *self.shape), np.uint8)
        return ImageSet(
            name=self.name,
            data=torch.from_numpy(images),
            labels=None if self.labels is None else self.labels[kept],
            groups=self.groups,
            flips=self.flips,
            notes=self.notes,
            files=tuple(self.reader.files[row] for row in kept),
            root=self.reader.root,
        )

    def hold_out(self, count: int, seed: int) -> Tensor:
        """The rows of `count` images, at most `MOST_HELD_OUT`, int64, increasing; chosen by a hash of (seed, name).

        If the source determines held-out images, they are chosen among those. Since pixels are not known yet, `batches`
        leaves out copies of held-out images.
        """
        among = range(len(self)) if self.held_out is None else self.held_out.nonzero()[:, 0].tolist()
        names = [self.reader.files[row] for row in among]
        wanted, key = min(count, MOST_HELD_OUT), f"held out {seed}"
        if self.labels is None or self.held_out is not None:
            return torch.tensor([among[k] for k in first_by_hash(names, wanted, key)], dtype=torch.int64)
        rows: list[int] = []
        remaining = Remaining(self.labels)
        for row in by_hash(names, key):
            if len(rows) < wanted and remaining.can_spare([row]):
                rows.append(row)
                remaining.hold_out([row])
        return torch.tensor(sorted(rows), dtype=torch.int64)

    def batches(self, rows: Tensor, order: Order, device: torch.device, held_out: InMemory) -> Batches:
        """Batches of the images at `rows`, read a few steps ahead. Copies of held-out images are left out."""
        return StreamedBatches(
            self.reader,
            self.labels,
            rows=rows,
            order=order,
            device=device,
            held_out=held_out.data,
            workers=self.workers,
        )

    def fingerprint(self) -> str:
        """A SHA-256 (hex) of names and sizes of the files, labels and groups. No file is read."""
        files = zip(self.reader.files, self.sizes, strict=True)
        contents = [b"%s\0%d\0" % (os.fsencode(file), size) for file, size in files]
        if self.held_out is not None:
            contents.append(self.held_out.numpy().tobytes())
        return fingerprint_of(self.shape, contents, self.labels, self.groups)


def too_large(count: int, options: LoadOptions) -> bool:
    """Whether a folder of `count` image files is streamed, if the caller allows it."""
    size = options.size or 0  # a size that is not given is chosen so that the images fit
    needed = count * (options.channels or 3) * size * size
    return options.stream and (count > STREAMED_FILES or needed > MAX_BYTES)


def first_by_hash(files: Sequence[str], count: int, key: str) -> list[int]:
    """The indices of the first `count` of the files in the order of `by_hash`, increasing."""
    return sorted(by_hash(files, key)[:count])


def by_hash(files: Sequence[str], key: str) -> list[int]:
    """The indices of all files in the order of a hash of (key, name).

    What is chosen by this order hardly changes when files are added or removed.
    """
    prefix = f"{key}:".encode()
    return sorted(
        range(len(files)), key=lambda i: hashlib.blake2b(prefix + os.fsencode(files[i]), digest_size=8).digest()
    )


def stream(root: Path, found: Listing, labels: Labels | None, options: LoadOptions) -> StreamedSet:
    """A streamed set of many files, of which `SAMPLE` are read now.

    Args:
        root: the folder.
        found: its image files, sorted.
        labels: the labels of the files.
        options: the options of loading. If size and channels are None, they are determined from the sample.
    Raises:
        DataError: too many files of the sample cannot be read, or too many could not be opened.
    """
    files, unlisted = found.files, found.skipped
    total = len(files) + len(unlisted)
    if not tolerable(len(unlisted), total, total):
        raise too_many(root, unlisted, total)
    trained_on = [i for i, file in enumerate(files) if file not in found.held_out]
    chosen = [trained_on[k] for k in first_by_hash([files[i] for i in trained_on], SAMPLE, "sample")]
    paths = [root / files[i] for i in chosen]
    with warnings_silenced():
        size = options.size or _common_size(paths, options)
        taken = stack(
            lambda k: read_picture(paths[k], size),
            len(paths),
            size=size,
            channels=options.channels,
            workers=options.workers,
        )
    unreadable = [(chosen[k], reason) for k, reason in taken.skipped]
    if not taken.kept or not tolerable(len(unreadable), len(chosen), len(files)):
        raise too_many_so_far(root, [(files[i], reason) for i, reason in unreadable], len(chosen))

    reader = Reader(root, files, (taken.images.shape[1], size, size), unreadable)
    notes = [
        f"{len(files):,} image files, read during training; a sample of {len(chosen):,}: {'; '.join(taken.notes)}",
        f"each is decoded once and kept in memory, up to {reader.bytes / 2**30:.1f} GiB"
        if reader.keeps
        else f"each is decoded again in every epoch; all of them would need {reader.bytes / 2**30:.1f} GiB of memory",
        f"at most {MOST_HELD_OUT:,} of them are held out, and exact copies of those are not trained on",
    ]
    if unread := [*unlisted, *reader.unreadable]:
        notes.append(f"skipped so far: {in_words(unread)}")
    return StreamedSet(
        name=str(root),
        reader=reader,
        sizes=tuple(found.sizes[file] for file in files),
        sample=taken.images,
        labels=None if labels is None else labels.labels,
        groups=() if labels is None else labels.groups,
        notes=tuple(notes),
        unlisted=tuple(unlisted),
        workers=options.workers,
        held_out=torch.tensor([file in found.held_out for file in files]) if found.held_out else None,
    )


def _common_size(paths: Sequence[Path], options: LoadOptions) -> int:
    """The side in pixels that is chosen for the images of these files; 8 if none can be read."""

    def header(k: int) -> Header | None:
        try:
            return read_header(paths[k])
        except UnreadableError:
            return None

    headers = in_order(header, len(paths), options.workers)
    shapes = [found.shape for found in headers if found is not None]
    # The images are not all in memory, so their number does not limit the size.
    return choose_size(shapes, 1, options.channels or 3, options.max_size) if shapes else 8
