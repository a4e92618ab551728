"""Writing of drawn rows of a table to a .csv, .tsv or .npy file, or to stdout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_cli.outputs import require_apart
from vpfb_core.errors import ConfigError
from vpfb_core.machine.files import require_writable, write_bytes
from vpfb_core.machine.launch import process_rank

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vpfb_cli.output import Output
    from vpfb_core.machine.origin import Origin
    from vpfb_core.model.trained import TrainedModel

ENDINGS = (".csv", ".tsv", ".npy")


class RowWriter:
    """A writer that receives rows in batches and writes them at the end.

    Args:
        out: the value of `-o`.
        say: the output of the command.
        inputs: the files that the command reads, by the options that name them.
        animated: as of an `ImageWriter`; no format of rows shows a path.
    Raises:
        ConfigError: the format is unknown, stdout is not free, or an input would be replaced.
        DataError: the output cannot be written.
    """

    wants_path = False

    def __init__(self, out: str, say: Output, inputs: Mapping[str, Path | None], *, animated: bool) -> None:
        del animated
        given = {name: path for name, path in inputs.items() if path is not None}
        if given:
            raise ConfigError(f"{' and '.join(given)} are for images, and the model is of a table")
        self._out, self._stdout = Path(out), out == "-"
        self._ending = ".csv" if self._stdout else self._out.suffix.lower()
        if self._ending not in ENDINGS:
            raise ConfigError(
                f"cannot write '{out}': rows of a table are a {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} file",
                hint="-o rows.csv, or -o - for a table on stdout",
            )
        if self._stdout:
            say.require_free_stdout("-o -")
        else:
            require_apart(out, inputs)
            require_writable(self._out)
        self._say = say
        self._rows: list[Tensor] = []
        self.table: bytes | None = None

    @contextlib.contextmanager
    def writing(
        self,
        count: int,
        model: TrainedModel,
        origin: Origin,
        *,
        frames: int = 1,
        at_once: bool = False,
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[None]:
        """Inside this context, the writer receives `count` rows, which are written by its end.

        Only the first process of a job writes. If the context ends with an error, the previous file is not changed. The
        formats have no place for the origin of the rows, which the command reports instead.

        Args:
            labels: the classes of the rows, which become the last column.
        """
        del count, origin, frames, at_once
        yield
        if not process_rank().first:
            return
        import torch

        from vpfb_core.data.table_statistics import TableStatistics
        from vpfb_core.uses.row_files import rows_file

        assert isinstance(model.statistics, TableStatistics)
        classes = None if labels is None else labels["classes"][labels["labels"]].tolist()
        content = rows_file(self._ending, model.statistics, torch.cat(self._rows), classes)
        if self._stdout:
            self.table = content
        else:
            write_bytes(self._out, content)

    def add(self, rows: Tensor, path: Tensor | None = None) -> None:
        """Add the next rows, float64 (N, d)."""
        del path
        self._rows.append(rows)
