"""What a data set is once it is in memory: square uint8 pictures, their classes, and what was done to get there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.machine.noise import generator

MAX_SIZE = 1024
SPLITS = ("train", "test")


@dataclass(frozen=True)
class ConditionGroup:
    """A group of exclusive classes. The null ("no class") is index −1 and is not listed.

    Attributes:
        name: "class" for a labelled set, the attribute's name for a binary attribute.
        classes: the names, in the order of the labels; a binary attribute `a` has ("~a", "a"), so 1 means present.
    """

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures in memory.

    Attributes:
        name: the source as the person typed it.
        images: uint8 (N, C, H, W), H == W, C in {1, 3}.
        labels: int64 (N, G), one column a condition group, −1 where unknown; None without conditions.
        groups: the G condition groups; () when labels is None.
        flips: whether a left-right flip of a picture still looks like one of the set.
        notes: in plain words, what was decided or left out on the way.
        skipped: (file, reason) of each unreadable file.
        files: the source file of each image, relative to the folder; None where images are not files.
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    groups: tuple[ConditionGroup, ...] = ()
    flips: bool = True
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), not {images.dtype} {tuple(images.shape)}")
        expected = (len(images), len(self.groups)) if self.groups else None
        if (None if labels is None else tuple(labels.shape)) != expected:
            raise ValueError(f"{len(images)} images and {len(self.groups)} groups need labels of shape {expected}")
        if self.files is not None and len(self.files) != len(images):
            raise ValueError(f"{len(self.files)} file names for {len(images)} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of each picture."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    @property
    def sample(self) -> Tensor:
        """uint8 (M, C, S, S), pictures to take statistics from: all of them."""
        return self.images

    def in_memory(self) -> ImageSet:
        """The set itself; one that is streamed is read."""
        return self

    def subset(self, index: Tensor) -> ImageSet:
        """The images at `index`, int64 (M,) or bool (N,), in that order; groups and notes stay as they are."""
        rows = torch.arange(len(self))[index]
        return replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            files=None if self.files is None else tuple(self.files[i] for i in rows.tolist()),
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over images, labels and groups: whether a resumed run sees the same data."""
        groups = [[group.name, *group.classes] for group in self.groups]
        digest = hashlib.sha256(json.dumps([list(self.images.shape), groups]).encode())
        digest.update(self.images.contiguous().numpy().data)
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class LoadOptions:
    """What the caller asks of any source; see `vpfb_core.data.load`.

    Raises:
        ConfigError: for a value outside its range.
    """

    size: int | None = None
    max_size: int | None = None
    channels: int | None = None
    conditional: bool = False
    workers: int = 0
    root: Path | None = None
    download: bool = True
    split: str | None = None
    limit: int | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and not 4 <= self.size <= MAX_SIZE:
            raise ConfigError(f"size {self.size} is not between 4 and {MAX_SIZE}", hint="try --size 32")
        if self.max_size is not None and self.max_size < 1:
            raise ConfigError(f"a largest size of {self.max_size} pixels leaves no picture")
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"channels {self.channels} is neither 1 nor 3", hint="1 is grey, 3 is colour")
        if self.workers < 0:
            raise ConfigError(f"{self.workers} workers cannot read anything", hint="0 takes one thread a processor")
        if self.split not in (None, "all", *SPLITS):
            raise ConfigError(f"unknown split {self.split!r}", hint=f"there are: {', '.join(SPLITS)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"a limit of {self.limit} images leaves no picture", hint="leave it out to take all")

    def rows(self, count: int) -> Tensor:
        """Which of `count` images are wanted: all, or a fixed random choice of `limit`, int64, increasing.

        A random choice, because sets are often sorted by class; a smaller limit chooses from a larger one's images.
        """
        if self.limit is None or self.limit >= count:
            return torch.arange(count)
        return torch.randperm(count, generator=generator("limit", count))[: self.limit].sort().values
