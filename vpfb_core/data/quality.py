"""Remarks on the images of a data set before training: blank images, copies, and classes of few images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpfb_core.data.copies import rows_by_digest
from vpfb_core.data.labelling import listed
from vpfb_core.data.source import Source
from vpfb_core.errors import counted

CONTRAST = 4  # grey levels up to which an image is blank: a blank JPEG or scan is not quite of one colour
DARK = 15  # the largest value of an image that is nearly black
FEW = 10  # images below which a class is named
_PART = 2**26  # values that are looked at together: bounds the memory


def remarks(source: Source) -> tuple[str, ...]:
    """Sentences about what is unusual in the data. Of a very large folder only a sample is examined."""
    return (*_of_images(source), *_of_classes(source))


def _of_images(source: Source) -> list[str]:
    images = source.sample
    if images.ndim != 4 or len(images) < 1:
        return []
    low, high = _extremes(images)
    blank = (high - low).amax(1) <= CONTRAST
    dark = (high.amax(1) <= DARK) & ~blank
    copies = sorted(row for same in rows_by_digest(images).values() for row in same[1:])
    files = source.files if len(images) == len(source) else None

    def named(rows: Sequence[int]) -> str:
        return f": {listed([files[i] for i in rows])}" if files else ""

    notes = []
    if bool((high.amax(0) - low.amin(0) <= CONTRAST).all()):
        notes.append("all images are blank and equal, so there is nothing to learn from them")
    elif blank.any():
        notes.append(f"{_how_many(blank)} blank, in a single colour{named(blank.nonzero()[:, 0].tolist())}")
    if dark.any():
        notes.append(
            f"{_how_many(dark)} nearly black, without a value above {DARK} of 255{named(dark.nonzero()[:, 0].tolist())}"
        )
    if copies and len(copies) == len(images) - 1 and not blank.all():
        notes.append("all images are identical: a model trained on them learns to reproduce one image and nothing else")
    elif copies and not blank.all():
        is_are = "is an exact copy of another one" if len(copies) == 1 else "are exact copies of others"
        notes.append(f"{len(copies):,} of them {is_are}{named(copies)}")
    return notes


def _of_classes(source: Source) -> list[str]:
    if source.labels is None:
        return []
    labels = source.labels if source.held_out is None else source.labels[~source.held_out]
    few = [
        (name, int(count))
        for column, group in enumerate(source.groups)
        for name, count in zip(
            group.classes, labels[:, column][labels[:, column] >= 0].bincount(minlength=len(group.classes)), strict=True
        )
        if count < FEW and not name.startswith("~")
    ]
    if not few:
        return []
    named = listed([f"{name} ({count})" for name, count in few], 12)
    have = "has" if len(few) == 1 else "have"
    classes = f"{counted(len(few), 'classes')} {have} fewer than {FEW} {source.noun}"
    return [f"{classes}, at least one of which is used for training: {named}"]


def _extremes(images: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each channel of each image, int16 (N, C)."""
    parts = images.split(max(1, _PART // images[0].numel()))
    low = torch.cat([part.flatten(2).amin(2) for part in parts])
    high = torch.cat([part.flatten(2).amax(2) for part in parts])
    return low.to(torch.int16), high.to(torch.int16)


def _how_many(which: Tensor) -> str:
    count = int(which.sum())
    return f"{count:,} of them {'is' if count == 1 else 'are'}"
