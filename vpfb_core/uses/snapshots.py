"""Small files that show samples of a run: a grid of images, or rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.statistics import Statistics
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.pictures import png, tile
from vpfb_core.uses.row_files import rows_file


@dataclass(frozen=True)
class Snapshot:
    """A file that shows samples.

    Attributes:
        ending: the ending of its name.
        content: its content.
        picture: the picture that it contains, (C, height, width); None if it contains numbers.
    """

    ending: str
    content: bytes
    picture: Tensor | None = None


def snapshot(statistics: Statistics, values: Tensor, origin: Origin = UNKNOWN) -> Snapshot:
    """A file that shows samples.

    Args:
        statistics: the statistics of the model.
        values: the samples, as `draw.sample` returns them.
        origin: the origin of the samples, which a picture records.
    """
    return _KINDS[statistics.kind](statistics, values, origin)


def _grid(statistics: Statistics, values: Tensor, origin: Origin) -> Snapshot:
    del statistics
    grid = tile(values)
    return Snapshot(".png", png(grid, origin), grid)


def _rows(statistics: Statistics, values: Tensor, origin: Origin) -> Snapshot:
    del origin
    assert isinstance(statistics, TableStatistics)
    return Snapshot(".csv", rows_file(".csv", statistics, values))


_KINDS: dict[str, Callable[[Statistics, Tensor, Origin], Snapshot]] = {
    ImageStatistics.kind: _grid,
    TableStatistics.kind: _rows,
}
