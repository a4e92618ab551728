"""log.csv: one line of figures at a time, and cut back to where a run resumes."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vpfb_core.errors import DataError
from vpfb_core.machine.files import write_bytes

COLUMNS = ("step", "seconds", "loss", "val_residual", "sample_accuracy", "grad_norm", "lr", "images_per_second",
           "memory_bytes")  # fmt: skip


def append(path: Path, figures: Mapping[str, float]) -> None:
    """Add a line; a figure that is not finite is left empty."""
    cells = (f"{figures[name]:.8g}" if math.isfinite(figures[name]) else "" for name in COLUMNS)
    try:
        with path.open("a", encoding="ascii") as file:
            file.write(_line(cells))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def cut(path: Path, step: int) -> None:
    """Drop what was written after `step`: a run that was killed, or rolled back, does these steps again."""
    try:
        with path.open(encoding="ascii", newline="") as file:
            rows = list(csv.reader(file))[1:]
    except (OSError, UnicodeDecodeError, csv.Error):
        rows = []
    whole = (row for row in rows if len(row) == len(COLUMNS) and re.fullmatch(r"\d{1,18}", row[0]))
    kept = [row for row in whole if int(row[0]) <= step]
    write_bytes(path, "".join(map(_line, [COLUMNS, *kept])).encode("ascii"))


def _line(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\n"
