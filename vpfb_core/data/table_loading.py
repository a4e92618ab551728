"""Tables of numbers as a source: which columns and rows of a file are learned, and the classes of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vpfb_core.data.labelling import listed, natural
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.table import Table
from vpfb_core.data.table_files import Cells, Column, cells_of, numbered, read_cells
from vpfb_core.data.table_statistics import TOO_FAR, step_of
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.file_names import printable

MOST_INCOMPLETE = 0.05  # the largest share of rows with missing values that are left out
MOST_CLASSES = 1_000
UNKNOWN = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})  # labels of rows without a class


def load_table(path: Path, options: LoadOptions) -> Table:
    """The table of a .csv, .tsv or .parquet file.

    If no columns are named, all that hold numbers and are not constant are taken. Rows with a missing or infinite value
    are left out if they are at most 5 % of the rows.

    Raises:
        DataError: the file cannot be read, or its columns cannot be used; the message names the line or the column.
        MissingError: a package that reads the file is not installed.
    """
    return table_of(str(path), read_cells(path, options.label), options)


def table_of_array(name: str, values: np.ndarray, options: LoadOptions) -> Table:
    """The table of an array of numbers, (N, d). Errors are those of `load_table`."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"'{name}' holds {values.dtype}, not numbers", hint="convert it to float64")
    return table_of(name, cells_of(values), options)


def table_of(name: str, cells: Cells, options: LoadOptions) -> Table:
    """The table of the cells of a file. Errors are those of `load_table`."""
    if not cells.columns or not len(cells.columns[0].numbers):
        raise DataError(f"'{name}' has no rows" + (", only a line of names" if cells.named else ""))
    notes: list[str] = []
    label = _label_column(name, cells, options)
    others = [column for column in cells.columns if column is not label]
    if options.columns is None:
        chosen = _usable(name, others, cells, notes)
    else:
        chosen = _named(name, others, cells, options.columns, notes)
    for column in chosen:
        _require_numbers(name, column, cells)
    values = np.stack([column.numbers for column in chosen], 1)
    complete = _complete(name, values, chosen, notes)
    if options.ranges is not None:
        _require_within(name, values, chosen, options.ranges, cells)
    labels: torch.Tensor | None = None
    groups: tuple[ConditionGroup, ...] = ()
    if label is not None and options.conditional:
        labels, groups = _classes(name, label, complete, notes)
    elif label is not None:
        notes.append(f"the column {printable(label.name)} is not learned; `conditional` learns its classes")
    rows = torch.from_numpy(np.ascontiguousarray(values[complete]))
    if copies := len(rows) - len(rows.unique(dim=0)):
        notes.append(f"{counted(copies, 'exact copies')} of other rows")
    shown = listed([column.name for column in chosen], 12)
    notes.insert(0, f"{counted(len(rows), 'rows')} of {counted(len(chosen), 'columns')}: {shown}")
    names = tuple(column.name for column in chosen)
    numbers = tuple(str(row + 1) for row in np.flatnonzero(complete).tolist())
    discrete = [column for column, step in zip(names, map(step_of, rows.T), strict=True) if step]
    if discrete and options.validation:
        notes.append(f"whole numbers with few values, rounded in samples: {listed(discrete, 12)}")
    return Table(name, rows, labels, groups, notes=tuple(notes), files=numbers, columns=names)


def _label_column(name: str, cells: Cells, options: LoadOptions) -> Column | None:
    """The column with the classes."""
    if options.label is None:
        if options.conditional:
            raise DataError(
                f"'{name}' does not say which column holds the classes",
                hint="add `label=COLUMN`, or train without `conditional`",
            )
        return None
    for column in cells.columns:
        if column.name == options.label:
            return column
    raise DataError(f"'{name}' has no column '{printable(options.label)}'", hint=_there(cells))


def _usable(name: str, columns: Sequence[Column], cells: Cells, notes: list[str]) -> list[Column]:
    """The columns that hold numbers and are not constant."""
    left_out = {
        "text": [column for column in columns if column.is_text],
        "row numbers": [column for column in columns if _is_index(column)],
        "empty": [column for column in columns if column.empty == len(column.numbers)],
        "constant": [column for column in columns if _is_constant(column)],
    }
    for reason, some in left_out.items():
        if some:
            notes.append(
                f"left out, {reason}: {listed([column.name or 'the column without a name' for column in some], 12)}"
            )
    unusable = {id(column) for some in left_out.values() for column in some}
    chosen = [column for column in columns if id(column) not in unusable]
    if not chosen and len(columns[0].numbers) == 1:
        raise DataError(f"'{name}' has one row, and a single row has no density", hint="train on at least 20 rows")
    if not chosen:
        raise DataError(f"'{name}' has no column of numbers that differ", hint=f"{'; '.join(notes)}; {_there(cells)}")
    return chosen


def _named(name: str, columns: Sequence[Column], cells: Cells, wanted: Sequence[str], notes: list[str]) -> list[Column]:
    """The columns of these names, in this order.

    In a file without names they are found by position, if it has as many columns as are named.
    """
    by_name = {column.name: column for column in columns}
    missing = [each for each in wanted if each not in by_name]
    if not missing:
        return [by_name[each] for each in dict.fromkeys(wanted)]
    if not cells.named and len(columns) == len(wanted):
        notes.append(f"'{name}' names no columns, which are taken to be {listed(list(wanted), 12)}")
        return [Column(each, column.numbers, column.texts) for each, column in zip(wanted, columns, strict=True)]
    if not cells.named:
        raise DataError(
            f"'{name}' has {counted(len(columns), 'columns')} without names, and {len(wanted)} are needed: "
            f"{listed(list(wanted))}",
            hint="add a first line with the names of the columns",
        )
    raise DataError(
        f"'{name}' has no column {listed([repr(each) for each in missing])}, which the model or `columns` names",
        hint=_there(cells),
    )


def _require_numbers(name: str, column: Column, cells: Cells) -> None:
    """Raise DataError if a column has cells of text."""
    if column.texts:
        row, text = next(iter(column.texts.items()))
        raise DataError(
            f"'{name}', {cells.location(row)}: {printable(column.name)} is '{printable(text[:40])}' and not a number",
            hint="correct the cell or leave it empty, or choose other columns with `columns=a,b,c`",
        )


def _complete(name: str, values: np.ndarray, columns: Sequence[Column], notes: list[str]) -> np.ndarray:
    """The rows in which all values are finite, bool (N,)."""
    finite = np.isfinite(values)
    complete = finite.all(1)
    if not (incomplete := int((~complete).sum())):
        return complete
    worst = [columns[i].name for i in np.argsort(finite.sum(0), kind="stable") if not finite[:, i].all()]
    have = "has" if incomplete == 1 else "have"
    count = f"{incomplete:,} of {len(values):,} rows {have} a missing or infinite value, in {listed(worst)}"
    if incomplete > MOST_INCOMPLETE * len(values):
        raise DataError(
            f"'{name}': {count}",
            hint=f"more than {MOST_INCOMPLETE:.0%} are not left out: fill them in, or leave columns out with `columns`",
        )
    notes.append(f"{count}; they are left out")
    return complete


def _require_within(
    name: str, values: np.ndarray, columns: Sequence[Column], ranges: Sequence[tuple[float, float]], cells: Cells
) -> None:
    """Raise DataError if a finite value is outside the range of its column."""
    low, high = np.array(ranges).T
    beyond = np.argwhere(np.isfinite(values) & ((values < low) | (values > high)))
    if len(beyond):
        row, column = map(int, beyond[0])
        raise DataError(
            f"'{name}', {cells.location(row)}: {printable(columns[column].name)} is {values[row, column]:g}, {TOO_FAR}",
            hint="correct the cell or leave the row out",
        )


def _classes(
    name: str, label: Column, complete: np.ndarray, notes: list[str]
) -> tuple[torch.Tensor, tuple[ConditionGroup, ...]]:
    """The classes of the complete rows in the column of labels."""
    words = label.words or [_as_word(number) for number in label.numbers]
    found = [word for word, kept in zip(words, complete, strict=True) if kept]
    names = sorted({word for word in found if word.lower() not in UNKNOWN}, key=natural)
    if len(names) < 2 or len(names) > min(MOST_CLASSES, max(2, len(found) // 2)):
        raise DataError(
            f"'{name}': the column {printable(label.name)} has {counted(len(names), 'different classes')} in "
            f"{counted(len(found), 'rows')}",
            hint="`label` names a column with a few classes, each of several rows",
        )
    index = {word: i for i, word in enumerate(names)}
    labels = torch.tensor([[index.get(word, -1)] for word in found])
    notes.append(f"{counted(len(names), 'classes')} from the column {printable(label.name)}: {listed(names, 12)}")
    return labels, (ConditionGroup(label.name, tuple(names)),)


def _as_word(number: float) -> str:
    return "" if np.isnan(number) else f"{number:g}"


def _is_index(column: Column) -> bool:
    """Whether a column without a name counts the rows, as pandas writes it."""
    return column.name == "" and bool((np.diff(column.numbers) == 1).all())


def _is_constant(column: Column) -> bool:
    finite = column.numbers[np.isfinite(column.numbers)]
    return len(finite) > 0 and not column.texts and finite.min() == finite.max()


def _there(cells: Cells) -> str:
    columns = cells.columns if cells.named else [Column(each, np.empty(0)) for each in numbered(len(cells.columns))]
    return f"columns: {listed([column.name for column in columns], 12)}"
