"""A table of numbers in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import DataError


@dataclass(frozen=True, eq=False)
class Table(InMemory):
    """A source whose rows are in memory: float64 (N, d), finite.

    Attributes:
        columns: the names of the d columns.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"columns", "label"})
    noun: ClassVar[str] = "rows"
    fewest: ClassVar[int] = 20

    flips: bool = False
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data.dtype != torch.float64 or self.data.ndim != 2 or self.data.shape[1] != len(self.columns):
            raise ValueError(
                f"rows must be float64 (N, {len(self.columns)}), not {self.data.dtype} {tuple(self.data.shape)}"
            )
        super().__post_init__()

    def select(self, columns: Sequence[str]) -> Table:
        """The table of some of the columns, in this order.

        Raises:
            DataError: there is no such column.
        """
        if missing := [each for each in columns if each not in self.columns]:
            raise DataError(f"'{self.name}' has no column '{missing[0]}'", hint=f"columns: {', '.join(self.columns)}")
        indices = [self.columns.index(each) for each in columns]
        return replace(self, data=self.data[:, indices].contiguous(), columns=tuple(columns))

    def as_asked(self, options: LoadOptions) -> Table:
        """The table with the columns and the classes that options name.

        Raises:
            DataError: there is no such column, or `label` is not the name of the classes.
        """
        if options.label is not None and options.label not in {group.name for group in self.groups}:
            raise DataError(f"'{self.name}' has no classes in a column '{options.label}'", hint="leave `label` out")
        return self if options.columns is None else self.select(options.columns)

    def statistics(self) -> TableStatistics:
        return TableStatistics.of(self.sample, self.columns)

    def fingerprint(self) -> str:
        """A SHA-256 (hex) of rows, names of columns, labels and groups."""
        return hashlib.sha256(f"{super().fingerprint()}{self.columns}".encode()).hexdigest()
