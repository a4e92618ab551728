"""The figures of an evaluation, each with the conditions of its measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vpfb_core.uses.measuring.gaps import Gap


@dataclass(frozen=True)
class Figure:
    """A figure with the conditions of its measurement, which are None if they do not apply.

    Attributes:
        value: the figure.
        n: the number of real images, and of samples if samples are compared with them.
        split: the split of the data.
        better: "lower", "higher" or "0.5".
        seed: the seed of all random numbers.
        resize: how images were resized for the model and for the extractor.
        extractor: the name of the feature extractor.
        weights: the SHA-256 of the weights of the extractor.
        solver: the solver of the samples.
        nfe: the mean number of gradient evaluations per sample.
        details: conditions and results of this figure only.
    """

    value: float
    n: int
    split: str
    better: str
    seed: int
    resize: str
    extractor: str | None = None
    weights: str | None = None
    solver: str | None = None
    nfe: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The figure, its conditions and its details as JSON values in one dictionary."""
        document = asdict(self)
        return document | document.pop("details")


@dataclass(frozen=True)
class Gaps:
    """The gaps between the statistics of samples and of real data, with the conditions of their measurement.

    Attributes:
        rows: one gap per statistic.
        n, split, seed, resize, solver, nfe: as of `Figure`.
    """

    rows: tuple[Gap, ...]
    n: int
    split: str
    seed: int
    resize: str
    solver: str
    nfe: float

    def document(self) -> dict[str, Any]:
        """The gaps and the conditions as JSON values in one dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Attributes:
        metrics: the figures by name. With features other than pixels, `1nn` is accompanied by `1nn_pixels`.
        nfe: the mean number of gradient evaluations per sample; None without samples.
        seconds: the duration of the evaluation.
        reused: whether the features of the real images were in the cache.
        statistics: the gaps of the statistics; None if they were not requested.
    """

    metrics: dict[str, Figure]
    nfe: float | None
    seconds: float
    reused: bool
    statistics: Gaps | None = None

    @property
    def solver(self) -> str | None:
        """The solver of the samples; None without samples."""
        if self.statistics is not None:
            return self.statistics.solver
        return next((figure.solver for figure in self.metrics.values() if figure.solver), None)

    def document(self) -> dict[str, Any]:
        """The figures and the gaps by name, as JSON values."""
        found = {name: figure.document() for name, figure in self.metrics.items()}
        return found | ({"statistics": self.statistics.document()} if self.statistics else {})
