"""The options of loading, which are the same for every source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.machine.limits import require_threads
from vpfb_core.machine.noise import generator
from vpfb_core.settings import whole_number

MAX_SIZE = 1024
SPLITS = ("train", "test")  # of the sets that have a name
PARTS = ("train", "val", "test", "all")  # of a folder


@dataclass(frozen=True)
class LoadOptions:
    """The options of `vpfb_core.data.load`, and more for training and for tables.

    Attributes:
        stream: whether a very large folder may be streamed.
        validation: whether the training part of a divided folder includes its validation data, which are held out.
        kind: the kind of data that a model is of, "images" or "rows"; None takes either.
        columns: the columns of a table, in this order; None chooses them.
        ranges: the lowest and the highest value of each of these columns; None is no limit.
        label: the column of a table with the classes; None if it has none.
    Raises:
        ConfigError: a value is out of its range, or a number is not a whole one.
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
    validation: bool = False
    kind: str | None = None
    columns: tuple[str, ...] | None = None
    ranges: tuple[tuple[float, float], ...] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        for name in ("size", "max_size", "channels", "workers", "limit"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.size is not None and not 4 <= self.size <= MAX_SIZE:
            raise ConfigError(f"size {self.size} is not between 4 and {MAX_SIZE}", hint="try `size=32`")
        if self.max_size is not None and self.max_size < 1:
            raise ConfigError(f"largest size {self.max_size} is not positive")
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"channels {self.channels} is neither 1 nor 3", hint="1 is grey, 3 is colour")
        if self.workers < 0:
            raise ConfigError(f"number of workers {self.workers} is negative", hint="0 takes one thread per processor")
        require_threads(self.workers, "workers")
        if self.split not in (None, *PARTS):
            raise ConfigError(f"unknown split {self.split!r}", hint=f"there are: {', '.join(PARTS)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit {self.limit} leaves no image", hint="omit it to take all images")

    def rows(self, count: int) -> Tensor:
        """The chosen rows of `count`, int64, increasing: all rows, or a fixed random choice of `limit`.

        The choice is random because data sets are often sorted by class. The choice of a smaller limit is part of that
        of a larger one.
        """
        if self.limit is None or self.limit >= count:
            return torch.arange(count)
        return torch.randperm(count, generator=generator("limit", count))[: self.limit].sort().values

    def cut(self, count: int) -> tuple[str, ...]:
        """The note of a loader that the limit leaves out some of `count` data; () if it leaves out none."""
        if self.limit is None or self.limit >= count:
            return ()
        return (f"limited to {self.limit:,} of {count:,}, a fixed choice",)
