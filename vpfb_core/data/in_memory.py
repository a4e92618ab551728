"""Data in memory with their classes, and notes on how they were loaded."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vpfb_core.data.batches import Batches, BatchesInMemory, Order
from vpfb_core.data.copies import rows_by_digest
from vpfb_core.data.source import ConditionGroup, Remaining
from vpfb_core.data.statistics import Statistics
from vpfb_core.machine.devices import placed


@dataclass(frozen=True, eq=False)
class InMemory(ABC):
    """A source (`Source`) whose data are in memory.

    Attributes:
        name: the source as the user typed it.
        data: the values, (N, *shape).
        labels: int64 (N, G), one column per condition group, −1 where unknown; None without conditions.
        groups: the G condition groups; () if labels is None.
        flips: whether a mirrored datum is as likely as the datum itself.
        notes: sentences about what was decided or left out while loading.
        skipped: (file, reason) of each unreadable file.
        files: the file of each datum, relative to the folder, or the number of its row in a table, from 1; None if
            data are neither.
        root: the folder of image files; None if the data are not as image files hold them.
        held_out: the data to validate on, bool (N,), if the source determines them; None if they are chosen.
    """

    takes: ClassVar[frozenset[str]]
    noun: ClassVar[str]
    fewest: ClassVar[int]

    name: str
    data: Tensor
    labels: Tensor | None = None
    groups: tuple[ConditionGroup, ...] = ()
    flips: bool = True
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] | None = None
    held_out: Tensor | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        data, labels = self.data, self.labels
        expected = (len(data), len(self.groups)) if self.groups else None
        if (None if labels is None else tuple(labels.shape)) != expected:
            raise ValueError(f"{len(data)} {self.noun} and {len(self.groups)} groups need labels of shape {expected}")
        counts = torch.tensor([len(group.classes) for group in self.groups])
        if labels is not None and bool(((labels < -1) | (labels >= counts)).any()):
            raise ValueError(f"labels must be whole numbers from -1 to {(counts - 1).tolist()}, one column per group")
        if self.files is not None and len(self.files) != len(data):
            raise ValueError(f"{len(self.files)} file names for {len(data)} {self.noun}")
        if self.held_out is not None and self.held_out.shape != (len(data),):
            raise ValueError(f"{tuple(self.held_out.shape)} marks of validation for {len(data)} {self.noun}")

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each datum."""
        return tuple(self.data.shape[1:])

    @property
    def images(self) -> Tensor:
        """The data of a set of images, uint8 (N, C, H, W)."""
        return self.data

    @property
    def sample(self) -> Tensor:
        """The data from which statistics are computed, (M, *shape): all but those that are held out."""
        return self.data if self.held_out is None else self.data[~self.held_out]

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings of a run that were chosen from the data, such as the size of images."""
        return {}

    @abstractmethod
    def statistics(self) -> Statistics:
        """The statistics of `sample`."""

    def fingerprint(self) -> str:
        """A SHA-256 (hex) of data, labels and groups."""
        contents = [self.data.contiguous().numpy().data]
        if self.held_out is not None:
            contents.append(self.held_out.numpy().data)
        return fingerprint_of(tuple(self.data.shape), contents, self.labels, self.groups)

    def subset(self, rows: Tensor) -> Self:
        """The data at `rows`, int64 (M,) or bool (N,), in that order. Groups and notes are the same.

        The choice of held-out data is not kept.
        """
        rows = torch.arange(len(self))[rows]
        return replace(
            self,
            data=self.data[rows],
            labels=None if self.labels is None else self.labels[rows],
            files=None if self.files is None else tuple(self.files[i] for i in rows.tolist()),
            held_out=None,
        )

    def in_memory(self) -> Self:
        """The set itself."""
        return self

    def hold_out(self, count: int, seed: int) -> Tensor:
        """The rows of at most `count` data, but of at least one, int64, increasing.

        Different data are ranked by a hash of (seed, values), and the first are held out until `count` is reached.
        Exact copies stay together, so that none is on both sides. Each class keeps a datum, so that there may be none
        to hold out. If the source determines the held-out data, those are returned.
        """
        if self.held_out is not None:
            return self.held_out.nonzero()[:, 0]
        copies = rows_by_digest(self.data, f"{seed}:")
        ranked = [copies[key] for key in sorted(copies)]
        rows: list[int] = []
        remaining = Remaining(self.labels)
        for group in ranked:
            if len(rows) + len(group) <= count and remaining.can_spare(group):
                rows += group
                remaining.hold_out(group)
        spare = (group for group in ranked if remaining.can_spare(group))
        return torch.tensor(sorted(rows or min(spare, key=len, default=[])), dtype=torch.int64)

    def batches(self, rows: Tensor, order: Order, device: torch.device, held_out: InMemory) -> Batches:  # noqa: ARG002
        """Batches of the data at `rows`, which are copied to the device at once.

        `hold_out` ensures that none of them is a copy of a held-out datum.
        """
        labels = None if self.labels is None else self.labels[rows].to(device)
        return BatchesInMemory(placed(self.data[rows], device), labels, order)


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
