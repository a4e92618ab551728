"""log.csv: one line of figures at a time, and cut back to where a run resumes."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vpfb_core.errors import DataError
from vpfb_core.machine.files import write_bytes


def columns(figures: Sequence[str]) -> tuple[str, ...]:
    """The columns of a run's log; figures: the names of its validation figures."""
    return ("step", "seconds", "loss", *figures, "sample_accuracy", "grad_norm", "lr", "images_per_second",
            "memory_bytes")  # fmt: skip


def append(path: Path, names: Sequence[str], figures: Mapping[str, float]) -> None:
    """Add a line; a figure that is not finite, or not there, is left empty."""
    values = (figures.get(name, math.nan) for name in names)
    cells = (f"{value:.8g}" if math.isfinite(value) else "" for value in values)
    try:
        with path.open("a", encoding="ascii") as file:
            file.write(_line(cells))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def cut(path: Path, names: Sequence[str], step: int) -> None:
    """Drop what was written after `step`: a run that was killed, or rolled back, does these steps again."""
    try:
        with path.open(encoding="ascii", newline="") as file:
            rows = list(csv.reader(file))[1:]
    except (OSError, UnicodeDecodeError, csv.Error):
        rows = []
    whole = (row for row in rows if len(row) == len(names) and re.fullmatch(r"\d{1,18}", row[0]))
    kept = [row for row in whole if int(row[0]) <= step]
    write_bytes(path, "".join(map(_line, [names, *kept])).encode("ascii"))


def _line(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\n"
