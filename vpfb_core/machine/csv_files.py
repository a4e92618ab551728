"""CSV files that other programs can read. Names keep all their characters."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from types import SimpleNamespace


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ",") -> bytes:
    """A CSV file in UTF-8 with these columns and rows. Names that are not UTF-8 keep their bytes."""
    return csv_lines([columns, *rows], separator)


def csv_lines(rows: Iterable[Sequence[object]], separator: str = ",") -> bytes:
    """The lines of some rows of a CSV file, as `csv_table` writes them."""
    lines: list[str] = []
    end = "\r\n"  # so that the writer puts names with either sign into quotes
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator=end, delimiter=separator)
    writer.writerows(rows)
    return "".join(f"{line.removesuffix(end)}\n" for line in lines).encode("utf-8", "surrogateescape")
