"""Files of rows of a table: .csv, .tsv and .npy."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.machine.csv_files import csv_lines


def rows_file(ending: str, statistics: TableStatistics, rows: Tensor, classes: Sequence[str] | None = None) -> bytes:
    """The contents of a file of rows.

    Args:
        ending: the ending of its name: .csv, .tsv or .npy. An .npy file has no names of columns and no classes.
        statistics: the statistics of the table, which name the columns.
        rows: float64 (N, d).
        classes: the class of each row, which becomes the last column.
    """
    if ending == ".npy":
        file = io.BytesIO()
        np.save(file, rows.numpy(), allow_pickle=False)
        return file.getvalue()
    columns = [*statistics.columns, *(["class"] if classes else [])]
    whole = [step > 0 and step.is_integer() for step in statistics.step]
    lines = (
        [f"{value:.0f}" if is_whole else f"{value:.8g}" for value, is_whole in zip(row, whole, strict=True)]
        for row in rows.tolist()
    )
    if classes:
        lines = ([*line, name] for line, name in zip(lines, classes, strict=True))
    return csv_lines([columns, *lines], "\t" if ending == ".tsv" else ",")
