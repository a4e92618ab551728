"""The ranking of the data of one set by their scores, which shows its outliers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import DataError
from vpfb_core.machine.csv_files import csv_table
from vpfb_core.uses import density
from vpfb_core.uses.ood.scores import DEFAULT_BATCH, score
from vpfb_core.uses.ood.tables import cell, image_name

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

# The number of values in a table up to which the log-density of each row is the likelihood of the flow, which takes
# about a minute on a CPU. It is that of the slightly blurred row in larger tables.
EXACT_VALUES = 100_000


@dataclass(frozen=True)
class Ranked:
    """A datum of a ranking.

    Attributes:
        index: the index of the datum in the set.
        name: the name of the datum.
        score: the score by which the data are ranked; higher is more out-of-distribution.
        figures: other figures by name; None if the model lacks what they need.
    """

    index: int
    name: str
    score: float
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Ranking:
    """The data of a set, the most out-of-distribution first.

    Attributes:
        ranked: the data.
        columns: the columns of its table.
        density: how the densities were computed, "explicit" or "ode"; None without densities.
    """

    ranked: Sequence[Ranked]
    columns: tuple[str, ...]
    density: str | None

    def table(self) -> bytes:
        """A CSV file with one row per datum."""
        rows = ([one.name, cell(one.score), *map(cell, one.figures.values())] for one in self.ranked)
        return csv_table(self.columns, rows)

    def documents(self, count: int) -> list[dict[str, Any]]:
        """The first `count` data as JSON values."""
        return [{self.columns[0]: one.name, "score": one.score, **one.figures} for one in self.ranked[:count]]


@dataclass(frozen=True)
class Kind:
    """What the ranking of a kind of data contains.

    Attributes:
        names: the name of the column of names.
        figures: the other figures.
        measure: computes them for the data of a set.
    """

    names: str
    figures: tuple[str, ...]
    measure: Callable[[TrainedModel, Tensor, int, int, str | None], tuple[list[Tensor | None], str | None]]


def rank(
    model: TrainedModel,
    data: InMemory,
    name: str,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    density_method: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Ranking:
    """All data of a set, the most out-of-distribution first.

    Args:
        density_method: "explicit" or "ode"; None takes "explicit" for images, and for rows "ode" in tables of at most
            `EXACT_VALUES` values. Other arguments and errors are those of `scores.score`.
    Raises:
        DataError: a score is NaN.
    """
    scores = score(model, data.data, name, seed=seed, batch_size=batch_size, on_batch=on_batch)
    if scores.isnan().any():
        raise DataError(f"the score of {image_name(data, int(scores.isnan().nonzero()[0]))} is NaN")
    kind = KINDS[model.statistics.kind]
    found, method = kind.measure(model, data.data, seed, batch_size, density_method)
    ranked = [
        Ranked(
            index=index,
            name=image_name(data, index),
            score=float(scores[index]),
            figures={
                figure: None if values is None else float(values[index])
                for figure, values in zip(kind.figures, found, strict=True)
            },
        )
        for index in scores.argsort(descending=True, stable=True).tolist()
    ]
    return Ranking(ranked, (kind.names, "score", *kind.figures), method)


def is_ranking(first_line: str) -> bool:
    """Whether a file begins with the names of the columns of a ranking."""
    return first_line in {",".join((kind.names, "score", *kind.figures)) for kind in KINDS.values()}


def _of_images(
    model: TrainedModel, images: Tensor, seed: int, batch_size: int, method: str | None
) -> tuple[list[Tensor | None], str | None]:
    """The energy in nats up to a constant, and the bits per dimension if the model is calibrated."""
    energies = score(model, images, "energy", batch_size=batch_size)
    chosen = method or ("explicit" if model.calibration is not None else None)
    bits = None
    if chosen is not None:
        bits = density.bits_per_dim(model, images, method=chosen, seed=seed, batch_size=batch_size)
    return [energies, bits], chosen


def _of_rows(
    model: TrainedModel, rows: Tensor, seed: int, batch_size: int, method: str | None
) -> tuple[list[Tensor | None], str | None]:
    """The log-density in nats, in the units of the columns."""
    flows = methods.gives(model.method.name, "flow")
    few = flows and rows.numel() <= EXACT_VALUES
    chosen = method or ("explicit" if model.calibration is not None and not few else "ode" if flows else None)
    if chosen is None:
        return [None], None
    return [density.log_density(model, rows, method=chosen, seed=seed, batch_size=max(batch_size, 256))], chosen


KINDS: dict[str, Kind] = {
    ImageStatistics.kind: Kind("file", ("energy", "bits_per_dim"), _of_images),
    TableStatistics.kind: Kind("row", ("log_density",), _of_rows),
}
