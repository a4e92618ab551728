"""The file log.csv of a run, to which lines are appended and which is cut when the run is resumed."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vpfb_core.errors import DataError
from vpfb_core.machine.files import write_bytes


def columns(figures: Sequence[str]) -> tuple[str, ...]:
    """The columns of the log of a run with these validation figures."""
    return ("step", "seconds", "loss", *figures, "sample_accuracy", "grad_norm", "lr", "images_per_second",
            "memory_bytes")  # fmt: skip


def append(path: Path, names: Sequence[str], figures: Mapping[str, float]) -> None:
    """Append a line. A figure that is missing or not finite is left empty."""
    values = (figures.get(name, math.nan) for name in names)
    cells = (f"{value:.8g}" if math.isfinite(value) else "" for value in values)
    try:
        with path.open("a", encoding="ascii") as file:
            file.write(_line(cells))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def cut(path: Path, names: Sequence[str], step: int) -> None:
    """Remove the lines after `step`, since a run that was killed or rolled back repeats these steps."""
    kept = [row for row in _rows(path)[1:] if _is_whole(row, names) and int(row[0]) <= step]
    write_bytes(path, "".join(map(_line, [names, *kept])).encode("ascii"))


def read(path: Path) -> dict[str, list[float]]:
    """The columns of a log by name; {} if there is no readable log.

    A figure that was left empty is NaN. Lines that are not whole, as a run in progress may be writing, are left out.
    """
    names, *rows = _rows(path) or [[]]
    whole = [row for row in rows if _is_whole(row, names)]
    return {name: [_number(row[column]) for row in whole] for column, name in enumerate(names)}


def _rows(path: Path) -> list[list[str]]:
    """The cells of all lines; [] if the file cannot be read."""
    try:
        with path.open(encoding="ascii", newline="") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _is_whole(row: Sequence[str], names: Sequence[str]) -> bool:
    return len(row) == len(names) and re.fullmatch(r"\d{1,18}", row[0]) is not None


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _line(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\n"
