"""What passes between a training run and its method: the data of a step, its losses, and validation data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vpfb_core.data.source import ConditionGroup
from vpfb_core.machine import noise


@dataclass(frozen=True)
class DataShape:
    """The shape of the data and the numbers of classes.

    Attributes:
        shape: the shape of a datum, (C, H, W) or (d,).
        classes: the number of classes in each condition group.
        shares: the share of each class among the labelled data, for each group; () where only the shape matters.
    """

    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, shape: Sequence[int], groups: Sequence[ConditionGroup], labels: Tensor | None = None) -> DataShape:
        """The shape of data with these condition groups and, for the shares, these labels, int64 (N, G).

        A group of which no datum has a label has no shares.
        """
        classes = tuple(len(group.classes) for group in groups)
        shares, columns = [], () if labels is None else labels.cpu().T
        for column, count in zip(columns, classes, strict=False):  # no columns without labels
            known = column[column >= 0]
            counts = torch.bincount(known, minlength=count).tolist() if len(known) else []
            shares.append(tuple(each / len(known) for each in counts))
        return cls(tuple(shape), classes, tuple(shares))

    @property
    def dimension(self) -> int:
        """The number of values per datum, d."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Batch:
    """The share of a batch that this process computes.

    Attributes:
        data: data of unit variance, (N, …).
        condition: class indices, int64 (N, G), −1 for none; None for an unconditional model.
        first: the row of the whole batch with which the share begins.
        total: the number of rows of the whole batch.
        keys: a number for each datum by which a method recognises it in other steps, int64 (N,), on the CPU.
        labels: the condition before some of it was hidden, like `condition`.
        shares: the share of each class among all labelled data, (K,) for each group.
    """

    data: Tensor
    condition: Tensor | None
    first: int
    total: int
    keys: Tensor | None = None
    labels: Tensor | None = None
    shares: tuple[Tensor, ...] = ()

    def rows(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """The data and the condition of some rows."""
        return self.data[rows], None if self.condition is None else self.condition[rows]

    def in_whole(self, rows: slice) -> slice:
        """The rows of the whole batch that some rows of this share are."""
        return slice(self.first + rows.start, self.first + rows.stop)


@dataclass(frozen=True)
class Moment:
    """A moment of a training run, and the random numbers of its step.

    Random numbers are drawn for the whole batch by (seed, stream, step, rollbacks) and then cut. Dividing a batch among
    processes and micro-batches therefore changes only the order of sums.

    Attributes:
        step: the number of the step, from 0.
        fraction: the share of the run that is done, in [0, 1].
        cooling: how far the learning rate has fallen, from 0 to 1.
        rollbacks: how often the run has returned to an earlier state.
        seed: the seed of the run.
        device: the device on which random numbers are drawn.
        at_once: the number of rows that are computed at once. The trainer divides the rows of the losses by it, and a
            method divides what it evaluates beside them.
    """

    step: int
    fraction: float = 0.0
    cooling: float = 0.0
    rollbacks: int = 0
    seed: int = 0
    device: torch.device | str = "cpu"
    at_once: int = 128

    def generator(self, stream: str) -> torch.Generator:
        """A new generator for one purpose. Every generator of the same stream draws the same numbers."""
        return noise.generator(self.seed, stream, self.step, self.rollbacks, device=self.device)


@dataclass(frozen=True)
class Loss:
    """One term of the training loss.

    Attributes:
        name: the name of the term in logs and messages.
        value: maps a slice of rows of the batch to the mean loss of these rows, ().
        weight: the weight of the term in the sum.
        divisible: whether the mean losses of parts, weighted by their numbers of rows, add up to that of the batch.
    """

    name: str
    value: Callable[[slice], Tensor]
    weight: float = 1.0
    divisible: bool = True


@dataclass(frozen=True)
class Validation:
    """Validation data on which a field is evaluated.

    Attributes:
        data: data of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        seed: the seed of the noise. The noise of datum i does not depend on how the data are divided.
        rows: the rows of the data that are evaluated; None evaluates all.
        shared: what all parts of the data share (see `once`).
    """

    data: Tensor
    condition: Tensor | None = None
    seed: int = 0
    rows: range | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)

    def part(self, rows: range) -> Validation:
        """These data with other rows that are evaluated."""
        return replace(self, rows=rows)

    def once(self, name: str, value: Callable[[], Tensor]) -> Tensor:
        """A value that is the same for all parts of these data, and is computed for the first of them.

        Args:
            name: the name of the value.
            value: computes it.
        """
        if name not in self.shared:
            self.shared[name] = value()
        return self.shared[name]

    def share(self) -> tuple[range, Tensor, Tensor | None]:
        """The rows that are evaluated, their data and their condition."""
        rows = range(len(self.data)) if self.rows is None else self.rows
        chosen = slice(rows.start, rows.stop)
        return rows, self.data[chosen], None if self.condition is None else self.condition[chosen]
