"""The interface of data for training, calibration and evaluation, wherever they are stored.

A datum is an image (C, H, W), uint8 in a source and in [0, 1] in the public interface, or a vector (d,) in the units of
its table. Code outside this package uses only this protocol and never asks for the kind of a source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vpfb_core.data.batches import Batches, Order

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vpfb_core.data.in_memory import InMemory
    from vpfb_core.data.statistics import Statistics


@dataclass(frozen=True)
class ConditionGroup:
    """A group of exclusive classes. "No class" has the index −1 and is not listed.

    Attributes:
        name: "class" for a labelled set, the name of the attribute for a binary attribute.
        classes: the names in the order of the labels. A binary attribute `a` has ("~a", "a"), so 1 means present.
    """

    name: str
    classes: tuple[str, ...]


class Remaining:
    """The number of data per class that are not held out. Every class keeps at least one.

    Args:
        labels: int64 (N, G), −1 where unknown; None without classes.
    """

    def __init__(self, labels: Tensor | None) -> None:
        self._classes = [] if labels is None else [tuple(enumerate(row)) for row in labels.tolist()]
        self._counts = Counter(each for row in self._classes for each in row if each[1] >= 0)

    def can_spare(self, rows: Sequence[int]) -> bool:
        """Whether every class keeps a datum if those at `rows` are held out as well."""
        return all(self._counts[each] > count for each, count in self._of(rows).items())

    def hold_out(self, rows: Sequence[int]) -> None:
        """Hold out the data at `rows`."""
        self._counts.subtract(self._of(rows))

    def _of(self, rows: Sequence[int]) -> Counter[tuple[int, int]]:
        if not self._classes:
            return Counter()
        return Counter(each for row in rows for each in self._classes[row] if each[1] >= 0)


class Source(Protocol):
    """N data of one shape, with or without labels, in a fixed order.

    Implementations are frozen dataclasses: `dataclasses.replace(source, notes=...)` gives a copy with other notes.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    takes: ClassVar[frozenset[str]]  # the options of `LoadOptions` that are only for this kind of data
    noun: ClassVar[str]  # what several data are called in messages, "images" or "rows"
    fewest: ClassVar[int]  # the least number of data to train on

    @property
    def name(self) -> str:
        """The source as the user typed it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each datum: (C, S, S) for images, (d,) for vectors."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """int64 (N, G), one column per condition group, −1 where unknown; None without conditions."""
        ...

    @property
    def groups(self) -> tuple[ConditionGroup, ...]:
        """The G condition groups; () if `labels` is None."""
        ...

    @property
    def flips(self) -> bool:
        """Whether a mirrored datum is as likely as the datum itself."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was decided or left out while loading."""
        ...

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(file, reason) of each unreadable file that has been found so far."""
        ...

    @property
    def files(self) -> tuple[str, ...] | None:
        """The file of each datum, relative to the folder of the source, or the number of its row in a table, from 1.

        None if data are neither.
        """
        ...

    @property
    def held_out(self) -> Tensor | None:
        """The data to validate on, bool (N,), if the source determines them; None if `hold_out` chooses them."""
        ...

    @property
    def sample(self) -> Tensor:
        """The data from which statistics are computed, (M, *shape): all that may be trained on, or a fixed choice."""
        ...

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings of a run that were chosen from the data, such as the size of images."""
        ...

    def statistics(self) -> Statistics:
        """The statistics of `sample`, with which the data are standardised."""
        ...

    def __len__(self) -> int:
        """The number of data, N."""
        ...

    def fingerprint(self) -> str:
        """A SHA-256 (hex) by which a resumed run recognises its data."""
        ...

    def subset(self, rows: Tensor) -> InMemory:
        """The data at `rows`, int64 (M,) or bool (N,), in memory and in that order. Unreadable files are left out.

        Raises:
            DataError: the files have disappeared, or too many of them cannot be read.
        """
        ...

    def in_memory(self) -> InMemory:
        """All the data, in memory. Errors are those of `subset`."""
        ...

    def hold_out(self, count: int, seed: int) -> Tensor:
        """The rows of about `count` < N data to validate on, int64, increasing, chosen by a hash with the seed.

        The choice does not depend on the order of the data. A class keeps at least one datum to train on. No copy of a
        held-out datum is ever trained on: either copies are held out together, or `batches` leaves them out. If all
        data are equal and have no classes, all rows are returned.
        """
        ...

    def batches(self, rows: Tensor, order: Order, device: torch.device, held_out: InMemory) -> Batches:
        """The training batches on a device.

        Args:
            rows: the data to train on, int64 (M,).
            order: the order of the M rows.
            device: the device of the batches.
            held_out: the data at the rows of `hold_out`.
        """
        ...
