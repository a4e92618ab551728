"""CSV files: those that other programs can read, whose names keep all their characters, and those of other programs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from vpfb_core.errors import DataError

_UNDECODABLE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


def csv_lines(rows: Iterable[Sequence[object]], separator: str = ",") -> bytes:
    """A CSV file of these rows in UTF-8, or a part of one. Names that are not UTF-8 keep their bytes."""
    lines: list[str] = []
    end = "\r\n"  # so that the writer puts names with either character into quotes
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator=end, delimiter=separator)
    writer.writerows(rows)
    return "".join(f"{line.removesuffix(end)}\n" for line in lines).encode("utf-8", "surrogateescape")


def csv_rows(path: Path, largest: int, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The number of the line and the cells of each row of a file that is not blank.

    Args:
        path: the file, in UTF-8 with or without a byte order mark.
        largest: the largest size of the file, in bytes.
        separator: the character between cells.
    Raises:
        DataError: the file is larger, cannot be read, or has a line that is not UTF-8 or not CSV.
    """
    if not path.is_file() or path.stat().st_size > largest:
        raise DataError(f"'{path}' cannot be read: it is not a file of at most {largest / 2**30:g} GiB")
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise DataError(
                f"'{path}': line {reader.line_num} is not CSV: {error}",
                hint="a quote that opens a cell must close it, and quotes inside the cell are doubled",
            ) from error
        except UnicodeDecodeError as error:
            with _opened(path, "surrogateescape") as again:
                line = next(number for number, text in enumerate(again, start=1) if _UNDECODABLE.search(text))
            raise DataError(f"'{path}': line {line} is not UTF-8 text", hint="save the table as UTF-8 CSV") from error


def separator_of(path: Path, possible: str) -> str:
    """The separator of a file: of those that are possible, the one that divides the first line most often.

    Raises:
        DataError: the file cannot be read.
    """
    with _opened(path, "replace") as file:
        first = next((line for line in file if line.strip()), "")
    return max(possible, key=lambda each: _cells(first, each))


def _cells(line: str, separator: str) -> int:
    """The number of cells of a line; 0 if the line is not CSV, as `csv_rows` then says."""
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:
        return 0


@contextmanager
def _opened(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """A file that is open for reading. Inside this context, an `OSError` becomes a `DataError`."""
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            yield file
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}", hint="check its permissions") from error
