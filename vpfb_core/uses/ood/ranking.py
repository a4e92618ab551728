"""The ranking of the data of one set by their scores, which shows its outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import DataError, FeatureError
from vpfb_core.machine.csv_files import csv_lines
from vpfb_core.model.choice import Needs
from vpfb_core.model.reference import Verdict
from vpfb_core.uses import density
from vpfb_core.uses.ood import scores as ood_scores
from vpfb_core.uses.ood.fit import assess_without_model
from vpfb_core.uses.ood.scores import DEFAULT_BATCH, DEFAULT_SCORE, SCORES, Batch, in_batches, require_ready
from vpfb_core.uses.ood.tables import cell, image_name

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

# The number of values in a table up to which the log-density of each row is the likelihood of the flow, which takes
# about a minute on a CPU. It is that of the slightly blurred row in larger tables.
EXACT_VALUES = 100_000
FLAG = 0.01  # the expected share of in-distribution data that are flagged by default


@dataclass(frozen=True)
class Ranked:
    """A datum of a ranking.

    Attributes:
        index: the index of the datum in the set.
        name: the name of the datum.
        score: the score by which the data are ranked; higher is more out-of-distribution.
        figures: other figures by name; None if the model lacks what they need.
        p_value: the share of the reference with at least this score, where each datum is left out of its own
            neighbours; None if the score is not calibrated by a reference.
        flagged: whether the p-value is at most the rate of the ranking.
        evidence: the p-value of each kind of evidence, such as "content"; {} if there is no p-value.
        nearest: the rows of the nearest data in `Ranking.reference`, nearest first; () if they are not known.
    """

    index: int
    name: str
    score: float
    figures: Mapping[str, float | None]
    p_value: float | None = None
    flagged: bool = False
    evidence: Mapping[str, float] = field(default_factory=dict)
    nearest: tuple[int, ...] = ()

    @property
    def verdict(self) -> dict[str, Any]:
        """What follows from the p-values, by the names of columns, as JSON values."""
        return {"p_value": self.p_value, "flagged": self.flagged, **self.evidence, "nearest": list(self.nearest)}


@dataclass(frozen=True)
class Ranking:
    """The data of a set, the most out-of-distribution first.

    Attributes:
        ranked: the data.
        columns: the columns of its table: the name, the score and the figures. Those of `Ranked.verdict` follow them.
        density: how the densities were computed, "explicit" or "ode"; None without densities.
        flag: the expected share of in-distribution data that are flagged.
        reference: the source of the data that they are compared with, as it was typed; None if it is not known.
    """

    ranked: Sequence[Ranked]
    columns: tuple[str, ...]
    density: str | None
    flag: float = FLAG
    reference: str | None = None

    @property
    def flagged(self) -> list[Ranked]:
        """The data that are flagged."""
        return [one for one in self.ranked if one.flagged]

    def table(self) -> bytes:
        """A CSV file with one row per datum."""
        rows = (
            [one.name, cell(one.score), *map(cell, one.figures.values()), *map(_cell, one.verdict.values())]
            for one in self.ranked
        )
        return csv_lines([(*self.columns, *self.ranked[0].verdict), *rows])

    def documents(self, count: int) -> list[dict[str, Any]]:
        """The first `count` data as JSON values."""
        return [
            {self.columns[0]: one.name, "score": one.score, **one.figures, **one.verdict} for one in self.ranked[:count]
        ]


def _cell(value: Any) -> str:
    """A part of a verdict as text."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else cell(value)


@dataclass(frozen=True)
class Kind:
    """What the ranking of a kind of data contains.

    Attributes:
        names: the name of the column of names.
        scores: the scores that are figures as well.
        density: the name of the figure that is a density.
        measure: computes it for the data of a set, (N,) or None, and says by which method.
    """

    names: str
    scores: tuple[str, ...]
    density: str
    measure: Callable[[TrainedModel, Tensor, int, int, str | None], tuple[Tensor | None, str | None]]

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures beside the score."""
        return (*self.scores, self.density)


def needs_of(name: str, density_method: str | None) -> Needs:
    """What a model must have for a ranking by a score, with densities by a method if it is named."""
    of_score = ood_scores.needs_of([name])
    if density_method is None:
        return of_score
    if density_method == "ode":
        return Needs(of_score.capabilities | {"flow"}, of_score.parts)
    return Needs(of_score.capabilities | {"density"}, of_score.parts | {"calibration"})


def rank(
    model: TrainedModel,
    data: InMemory,
    name: str = DEFAULT_SCORE,
    *,
    flag: float = FLAG,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    density_method: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Ranking:
    """All data of a set, the most out-of-distribution first.

    Args:
        flag: the expected share of in-distribution data that are flagged. Only the default score flags.
        density_method: "explicit" or "ode"; None takes "explicit" for images, and for rows "ode" in tables of at most
            `EXACT_VALUES` values. Other arguments and errors are those of `scores.score`.
    Raises:
        DataError: a score is NaN.
        FeatureError: a feature of a network of the user's own is not finite.
    """
    kind, chosen = KINDS[model.statistics.kind], require_ready(model, name)

    def assessed(batch: Batch) -> tuple[Verdict, list[Tensor]]:
        verdict = batch.verdict if name == DEFAULT_SCORE else Verdict.of(chosen.compute(batch).float().cpu())
        return verdict, [SCORES[each].compute(batch).float().cpu() for each in kind.scores]

    with _naming(data):
        parts = in_batches(assessed, model, data.data, seed, batch_size=batch_size, on_batch=on_batch)
    verdict = Verdict.joined([verdict for verdict, _ in parts])
    scores = [torch.cat(column) for column in zip(*(figures for _, figures in parts), strict=True)]
    found, method = kind.measure(model, data.data, seed, batch_size, density_method)
    reference = model.about.get("data", {}).get("name")
    ranked = _sorted(data, verdict, kind, [*scores, found], flag)
    return Ranking(ranked, (kind.names, "score", *kind.figures), method, flag, reference)


def rank_without_model(
    data: InMemory, *, flag: float = FLAG, seed: int = 0, own: Callable[[Tensor], Tensor] | None = None
) -> Ranking:
    """All images of a set, the most unlike the others first. Each image is left out of its own neighbours.

    Args:
        own: the function from images to the features of a network of the user's own (`own_features.find`); None for no
            such features. Other arguments are those of `rank`.
    Raises:
        DataError: there are fewer than two images.
        FeatureError: a feature of a network of the user's own is not finite.
    """
    with _naming(data):
        verdict = assess_without_model(data.data, seed=seed, own=own)
    kind = KINDS[ImageStatistics.kind]
    ranked = _sorted(data, verdict, kind, [None] * len(kind.figures), flag)
    return Ranking(ranked, (kind.names, "score", *kind.figures), None, flag, data.name)


@contextmanager
def _naming(data: InMemory) -> Iterator[None]:
    """Inside this context, a `FeatureError` about a row of a set names its file."""
    try:
        yield
    except FeatureError as error:
        raise error.of(image_name(data, error.row)) from error


def _sorted(
    data: InMemory, verdict: Verdict, kind: Kind, figures: Sequence[Tensor | None], flag: float
) -> list[Ranked]:
    """The data of a set by their scores, the greatest first."""
    scores, p_values = verdict.score, verdict.p_value
    if scores.isnan().any():
        raise DataError(f"the score of {image_name(data, int(scores.isnan().nonzero()[0]))} is NaN")

    def ranked(index: int) -> Ranked:
        p_value = None if p_values is None else float(p_values[index])
        return Ranked(
            index=index,
            name=image_name(data, index),
            score=float(scores[index]),
            figures={
                figure: None if values is None else float(values[index])
                for figure, values in zip(kind.figures, figures, strict=True)
            },
            p_value=p_value,
            flagged=p_value is not None and p_value <= flag,
            evidence={name: float(values[index]) for name, values in verdict.evidence.items()},
            nearest=tuple(verdict.nearest[index].tolist()),
        )

    return [ranked(index) for index in scores.argsort(descending=True, stable=True).tolist()]


def is_ranking(first_line: str) -> bool:
    """Whether a file begins with the names of the columns of a ranking."""
    return any(first_line.startswith(",".join((kind.names, "score", *kind.figures))) for kind in KINDS.values())


def _of_images(
    model: TrainedModel, images: Tensor, seed: int, batch_size: int, method: str | None
) -> tuple[Tensor | None, str | None]:
    """The bits per dimension if the model is calibrated."""
    chosen = method or ("explicit" if model.calibration is not None else None)
    if chosen is None:
        return None, None
    return density.bits_per_dim(model, images, method=chosen, seed=seed, batch_size=batch_size), chosen


def _of_rows(
    model: TrainedModel, rows: Tensor, seed: int, batch_size: int, method: str | None
) -> tuple[Tensor | None, str | None]:
    """The log-density in nats, in the units of the columns."""
    flows = methods.gives(model.method.name, "flow")
    few = flows and rows.numel() <= EXACT_VALUES
    chosen = method or ("explicit" if model.calibration is not None and not few else "ode" if flows else None)
    if chosen is None:
        return None, None
    return density.log_density(model, rows, method=chosen, seed=seed, batch_size=max(batch_size, 256)), chosen


KINDS: dict[str, Kind] = {
    ImageStatistics.kind: Kind("file", ("energy",), "bits_per_dim", _of_images),
    TableStatistics.kind: Kind("row", (), "log_density", _of_rows),
}
