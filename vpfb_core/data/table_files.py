"""Tables of numbers from .csv, .tsv, .parquet and .npy files: their cells, before columns and rows are chosen.

The first line of a text file names the columns if none of its cells is a number. Otherwise the columns are named x0,
x1, and so on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vpfb_core.errors import DataError, MissingError
from vpfb_core.machine.csv_files import csv_rows, separator_of
from vpfb_core.machine.file_names import printable

SEPARATORS = {".csv": ",;\t|", ".tsv": "\t"}  # the separators that are tried
ENDINGS = frozenset({*SEPARATORS, ".parquet"})
MISSING = frozenset(
    {"", "na", "n/a", "nan", "null", "none", "nil", "-", "?", "."}
)  # cells without a value, in any case
MOST_COLUMNS = 4_096
LARGEST_TABLE = 4 * 2**30  # bytes
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")


@dataclass
class Column:
    """A column of a file.

    Attributes:
        name: its name.
        numbers: its cells as numbers, float64 (N,); NaN where a cell is empty or text.
        texts: the cells that are text, by row.
        words: all cells as text, if they were asked for.
    """

    name: str
    numbers: np.ndarray
    texts: dict[int, str] = field(default_factory=dict)
    words: list[str] | None = None

    @property
    def is_text(self) -> bool:
        """Whether no cell is a number and some are text."""
        return bool(self.texts) and len(self.texts) + self.empty == len(self.numbers)

    @property
    def empty(self) -> int:
        """The number of cells without a value."""
        return int(np.isnan(self.numbers).sum()) - len(self.texts)


@dataclass(frozen=True)
class Cells:
    """The cells of a file.

    Attributes:
        columns: its columns.
        named: whether the file names them.
        lines: the line of each row in the file, for messages; None if the file has no lines.
    """

    columns: list[Column]
    named: bool
    lines: Sequence[int] | None = None

    def location(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


def read_cells(path: Path, label: str | None = None) -> Cells:
    """The cells of a file.

    Args:
        path: the file.
        label: the column whose cells are kept as text as well.
    Raises:
        DataError: the file cannot be read, is damaged, or its rows have different lengths.
        MissingError: the file is a .parquet file, and no package that reads it is installed.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, label)
    return _read_text(path, label)


def cells_of(values: np.ndarray) -> Cells:
    """The cells of an array of numbers, (N, d)."""
    numbers = values.astype(np.float64)
    return Cells([Column(name, numbers[:, i]) for i, name in enumerate(numbered(values.shape[1]))], named=False)


def numbered(count: int) -> list[str]:
    """The names of columns that have none: x0, x1, and so on."""
    return [f"x{i}" for i in range(count)]


def _read_text(path: Path, label: str | None) -> Cells:
    separator = separator_of(path, SEPARATORS.get(path.suffix.lower(), SEPARATORS[".csv"]))
    lines = csv_rows(path, LARGEST_TABLE, separator)
    first = next(lines, None)
    if first is None:
        raise DataError(f"'{path}' is empty", hint="a table has a line of names, and one line per row")
    line, cells = first
    if len(cells) > MOST_COLUMNS:
        raise DataError(f"'{path}' has {len(cells):,} columns, more than {MOST_COLUMNS:,}")
    comma = separator == ";"
    named = all(_number(cell, comma) is None for cell in cells)
    names = [cell.strip() for cell in cells] if named else numbered(len(cells))
    _require_distinct(path, names)
    table = _Builder(path, names, None if label not in names else names.index(str(label)), comma)
    if not named:
        table.add(line, cells)
    for line, cells in lines:
        table.add(line, cells)
    return Cells(table.columns(), named, table.lines)


class _Builder:
    """The columns of a text file, row by row."""

    def __init__(self, path: Path, names: list[str], label: int | None, comma: bool) -> None:
        from array import array

        self.path, self.names, self.label, self.comma = path, names, label, comma
        self.lines: list[int] = []
        self.values = array("d")
        self.texts: list[dict[int, str]] = [{} for _ in names]
        self.words: list[str] = []

    def add(self, line: int, cells: list[str]) -> None:
        """Add a row.

        Raises:
            DataError: it has another number of cells.
        """
        if len(cells) != len(self.names):
            raise DataError(
                f"'{self.path}', line {line} has {len(cells)} cells, and the first line has {len(self.names)}",
                hint="the file may be cut off, or a cell may contain a separator without quotes",
            )
        if self.label is not None:
            self.words.append(cells[self.label].strip())
        try:
            self.values.extend(map(_as_float, cells))
        except ValueError:
            self._add_with_texts(cells)
        self.lines.append(line)

    def _add_with_texts(self, cells: list[str]) -> None:
        row, width = len(self.lines), len(self.names)
        del self.values[row * width :]  # those of this row that were added before the failure
        for i, cell in enumerate(cells):
            value = _number(cell, self.comma)
            if value is None and cell.strip().lower() not in MISSING:
                self.texts[i][row] = cell.strip()
            self.values.append(math.nan if value is None else value)

    def columns(self) -> list[Column]:
        """The columns of the rows that were added."""
        numbers = np.frombuffer(self.values, np.float64).reshape(len(self.lines), len(self.names))
        return [
            Column(name, numbers[:, i], self.texts[i], self.words if i == self.label else None)
            for i, name in enumerate(self.names)
        ]


def _number(cell: str, comma: bool) -> float | None:
    """The number in a cell; None if it is none. With `comma`, 1,5 is a number as well."""
    text = cell.strip()
    if text.lower() in MISSING:
        return None
    if comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return _as_float(text)
    except ValueError:
        return None


def _as_float(cell: str) -> float:
    """The number in a cell. Raises ValueError if it is none, as 1_000, which is a number in Python alone."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def _require_distinct(path: Path, names: list[str]) -> None:
    """Raise DataError if two columns have one name. Of empty names there may be one."""
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        shown = printable(double[0])
        raise DataError(f"'{path}': two columns have the name '{shown}'", hint="give every column a name of its own")


def _read_parquet(path: Path, label: str | None) -> Cells:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingError(
            f"'{path}' is a Parquet file, which needs pyarrow", hint='pip install "vpfb[parquet]"'
        ) from error
    try:
        table = parquet.ParquetFile(path).read()  # `read_table` does not read two columns of one name
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}", hint="check its permissions") from error
    except Exception as error:  # pyarrow raises many kinds of errors on damaged files
        raise DataError(f"'{path}' is damaged, or not a Parquet file: {' '.join(str(error).split())}") from error
    columns = [_parquet_column(name, table.column(i).to_pylist(), name == label) for i, name in
               enumerate(table.column_names)]  # fmt: skip
    _require_distinct(path, [column.name for column in columns])
    return Cells(columns, named=True)


def _parquet_column(name: str, values: list[Any], is_label: bool) -> Column:
    numbers = np.array([_as_number(value) for value in values], np.float64)
    texts = {i: str(value) for i, value in enumerate(values) if value is not None and _is_text(value)}
    words = ["" if value is None else str(value) for value in values] if is_label else None
    return Column(name, numbers, texts, words)


def _is_text(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return True
    return isinstance(value, str)


def _as_number(value: Any) -> float:
    return math.nan if value is None or _is_text(value) else float(value)
