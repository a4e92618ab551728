"""Images in memory: square uint8 images with their classes, and notes on how they were loaded."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vpfb_core.data.batches import Batches, BatchesInMemory, Order
from vpfb_core.data.source import ConditionGroup, Remaining


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A source (`Source`) whose images are in memory.

    Attributes:
        name: the source as the user typed it.
        images: uint8 (N, C, H, W), H == W, C in {1, 3}.
        labels: int64 (N, G), one column per condition group, −1 where unknown; None without conditions.
        groups: the G condition groups; () if labels is None.
        flips: whether a mirrored image is as likely as the image itself.
        notes: sentences about what was decided or left out while loading.
        skipped: (file, reason) of each unreadable file.
        files: the file of each image, relative to the folder; None if images are not files.
        held_out: the images to validate on, bool (N,), if the source determines them; None if they are chosen.
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    groups: tuple[ConditionGroup, ...] = ()
    flips: bool = True
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] | None = None
    held_out: Tensor | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), not {images.dtype} {tuple(images.shape)}")
        expected = (len(images), len(self.groups)) if self.groups else None
        if (None if labels is None else tuple(labels.shape)) != expected:
            raise ValueError(f"{len(images)} images and {len(self.groups)} groups need labels of shape {expected}")
        if self.files is not None and len(self.files) != len(images):
            raise ValueError(f"{len(self.files)} file names for {len(images)} images")
        if self.held_out is not None and self.held_out.shape != (len(images),):
            raise ValueError(f"{tuple(self.held_out.shape)} marks of validation for {len(images)} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, S, S) of each image."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    @property
    def sample(self) -> Tensor:
        """The images from which statistics are computed, uint8 (M, C, S, S): all but those that are held out."""
        return self.images if self.held_out is None else self.images[~self.held_out]

    def fingerprint(self) -> str:
        """A SHA-256 (hex) of images, labels and groups."""
        contents = [self.images.contiguous().numpy().data]
        if self.held_out is not None:
            contents.append(self.held_out.numpy().data)
        return fingerprint_of(tuple(self.images.shape), contents, self.labels, self.groups)

    def subset(self, rows: Tensor) -> ImageSet:
        """The images at `rows`, int64 (M,) or bool (N,), in that order. Groups and notes are the same.

        The choice of held-out images is not kept.
        """
        rows = torch.arange(len(self))[rows]
        return replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            files=None if self.files is None else tuple(self.files[i] for i in rows.tolist()),
            held_out=None,
        )

    def in_memory(self) -> ImageSet:
        """The set itself."""
        return self

    def hold_out(self, count: int, seed: int) -> Tensor:
        """The rows of at most `count` images, but of at least one, int64, increasing.

        Different images are ranked by a hash of (seed, pixels), and the first are held out until `count` is reached.
        Exact copies stay together, so that none is on both sides. Each class keeps an image, so that there may be none
        to hold out. If the source determines the held-out images, those are returned.
        """
        if self.held_out is not None:
            return self.held_out.nonzero()[:, 0]
        copies = defaultdict(list)
        for i, pixels in enumerate(self.images.numpy()):
            digest = hashlib.blake2b(f"{seed}:".encode(), digest_size=16)
            digest.update(pixels.tobytes())
            copies[digest.digest()].append(i)
        ranked = [copies[key] for key in sorted(copies)]
        rows: list[int] = []
        remaining = Remaining(self.labels)
        for group in ranked:
            if len(rows) + len(group) <= count and remaining.can_spare(group):
                rows += group
                remaining.hold_out(group)
        spare = (group for group in ranked if remaining.can_spare(group))
        return torch.tensor(sorted(rows or min(spare, key=len, default=[])), dtype=torch.int64)

    def batches(self, rows: Tensor, order: Order, device: torch.device, held_out: ImageSet) -> Batches:  # noqa: ARG002
        """Batches of the images at `rows`, which are copied to the device at once.

        `hold_out` ensures that none of them is a copy of a held-out image.
        """
        labels = None if self.labels is None else self.labels[rows].to(device)
        return BatchesInMemory(self.images[rows].to(device), labels, order)


def fingerprint_of(
    shape: tuple[int, ...],
    contents: Iterable[bytes | memoryview],
    labels: Tensor | None,
    groups: tuple[ConditionGroup, ...],
) -> str:
    """A SHA-256 (hex) of shape, groups, contents and labels."""
    names = [[group.name, *group.classes] for group in groups]
    digest = hashlib.sha256(json.dumps([shape, names]).encode())
    for content in contents:
        digest.update(content)
    if labels is not None:
        digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()
