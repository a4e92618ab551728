"""CSV files that other programs can read. Names keep all their characters."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from types import SimpleNamespace


def csv_lines(rows: Iterable[Sequence[object]], separator: str = ",") -> bytes:
    """A CSV file of these rows in UTF-8, or a part of one. Names that are not UTF-8 keep their bytes."""
    lines: list[str] = []
    end = "\r\n"  # so that the writer puts names with either sign into quotes
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator=end, delimiter=separator)
    writer.writerows(rows)
    return "".join(f"{line.removesuffix(end)}\n" for line in lines).encode("utf-8", "surrogateescape")
