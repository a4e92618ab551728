"""The measurement of the figures of an evaluation, by the processes of a job together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.dynamics.solver import Solver
from vpfb_core.machine import distributed
from vpfb_core.methods.step import Validation
from vpfb_core.uses import density
from vpfb_core.uses.draw import batches, sample
from vpfb_core.uses.evaluation import cache, distances, features, neighbours
from vpfb_core.uses.evaluation.metrics import METRICS
from vpfb_core.uses.evaluation.preparation import Plan
from vpfb_core.uses.evaluation.results import Figure, Gaps, Report
from vpfb_core.uses.evaluation.weights import is_standard
from vpfb_core.uses.measuring.gaps import gaps
from vpfb_core.uses.measuring.measures import Measures

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

DEFAULT_BATCH = 256
# The approximate costs per image in gradient evaluations, from which the progress is computed.
_ADAPTIVE, _FEATURES, _READ, _FLOW = 100, 4, 1, 250
STATISTICS = "statistics"
_NO_FEATURES = features.Extractor("none", None, "none", lambda images: images.new_empty(len(images), 0))


def evaluate(
    model: TrainedModel,
    plan: Plan,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_progress: Callable[[float], None] | None = None,
    **solver: Any,
) -> Report:
    """Measure the metrics of a plan.

    Samples are rounded as in files. They are unconditional or, with `plan.by_class`, have the classes of the real
    images. The processes of a job divide the images; the first gets the figures, and the others get a report without
    figures.

    Args:
        model: the model.
        plan: what is measured and on which images.
        seed: the seed of all random numbers.
        batch_size: the number of images that are computed at once.
        on_progress: called with the approximate share of the work that is done, in [0, 1].
        solver: the settings of the samples, as in `draw.sample`.
    Raises:
        ConfigError: there is no such solver, or the batch size is below 1.
        SolverError: a sample did not reach the end of the flow.
    """
    began = time.monotonic()
    chosen, _ = methods.choose_sampling(model.method, solver)
    work = _Evaluation(model, plan, chosen, solver, seed, batch_size, on_progress)
    figures: dict[str, Figure] = {}
    drawn = statistics = None
    if work.extractor is not None and (drawn := work.draw(work.extractor)) is not None:
        figures |= work.compare(drawn, work.extractor)
        if STATISTICS in plan.metrics:
            statistics = work.gaps(drawn)
    measures = {"residual": work.residual, "bpd": work.bits, "bpd_flow": work.bits_by_flow, "nll": work.nats_by_flow}
    for name, measure in measures.items():
        if name in plan.metrics and (figure := measure()) is not None:
            figures[name] = figure
    nfe, reused = (drawn.nfe, drawn.reused) if drawn is not None else (None, False)
    return Report(figures, nfe, time.monotonic() - began, reused, statistics)


@dataclass(frozen=True)
class _Drawn:
    """Samples with their features, and the features of the real images.

    Attributes:
        samples: uint8 (N, C, H, W).
        features, real: the features of the samples and of the real images, (N, F), on the device of the model.
        nfe: the mean number of gradient evaluations per sample.
        reused: whether the features of the real images were in the cache.
    """

    samples: Tensor
    features: Tensor
    real: Tensor
    nfe: float
    reused: bool


class _Evaluation:
    """An evaluation in progress."""

    def __init__(
        self,
        model: TrainedModel,
        plan: Plan,
        solver: Solver,
        how: Mapping[str, Any],
        seed: int,
        batch_size: int,
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.model, self.plan, self.solver, self.how = model, plan, solver, how
        self.seed, self.batch_size = seed, batch_size
        self.real, self.unseen = plan.real.images, plan.real.unseen
        self.classes = plan.real.labels if plan.by_class else None
        self.unseen_classes = plan.real.unseen_labels if plan.by_class else None
        self.group = distributed.group()
        self.on_progress, self.done = on_progress, 0.0
        self.draw_cost = solver.nfe or _ADAPTIVE
        self.extractor = plan.extractor or (_NO_FEATURES if STATISTICS in plan.metrics else None)
        self.total = float(self.extractor is not None) * len(self.real) * (self.draw_cost + 2 * _FEATURES)
        self.total += len(self.unseen) * _READ * sum(name in plan.metrics for name in ("residual", "bpd"))
        self.total += len(self.unseen[: plan.flow_images]) * _FLOW * bool({"bpd_flow", "nll"} & set(plan.metrics))

    def draw(self, extractor: features.Extractor) -> _Drawn | None:
        """As many samples as there are real images, with the features of both; None on all processes but the first."""
        n, device = len(self.real), self.model.device

        def extract(images: Tensor) -> Tensor:
            return extractor.features(
                images, device, batch_size=self.batch_size, on_batch=lambda count: self._report(count * _FEATURES)
            ).cpu()

        def draw(rows: range) -> tuple[Tensor, Tensor, int]:
            parts, evaluations = [], 0
            for part in self._batches(rows):
                drawn = sample(
                    self.model, len(part), self.seed, first=part.start, batch_size=len(part),
                    condition=_rows(self.classes, part), **self.how,
                ).require_success()  # fmt: skip
                evaluations += int(drawn.nfe.sum())
                parts.append(self.model.statistics.stored(drawn.images))
                self._report(len(part) * self.draw_cost)
            samples = torch.cat(parts)
            return samples, extract(samples), evaluations

        drawn = self.group.sharded(n, draw)
        real = cache.find(extractor, self.real) if self.group.first else None
        reused = self.group.from_first(lambda: real is not None)
        if reused:
            self._report(n * _FEATURES / self.group.count)
        else:
            real = self._each(n, lambda rows: extract(self.real[rows.start : rows.stop]))
        if drawn is None or real is None:
            return None
        if not reused:
            cache.keep(extractor, self.real, real)
        samples, of_samples, evaluations = zip(*drawn, strict=True)
        return _Drawn(
            torch.cat(samples), torch.cat(of_samples).to(device), real.to(device), sum(evaluations) / n, reused
        )

    def compare(self, found: _Drawn, extractor: features.Extractor) -> dict[str, Figure]:
        """The figures that compare samples with real images."""
        wanted, device = self.plan.metrics, self.model.device
        samples, drawn, real = found.samples, found.features, found.real
        common: dict[str, Any] = {"solver": self.solver.in_words(), "nfe": found.nfe}
        conditions = common | {"extractor": extractor.name, "weights": extractor.weights}
        if extractor.resize != "none":
            conditions["resize"] = f"{self.plan.real.resize}; for the features {extractor.resize}"
        figures: dict[str, Figure] = {}
        if extractor.name == features.INCEPTION:
            from vpfb_core.uses.evaluation import inception

            standard = {"standard_weights": is_standard(extractor.weights)}
            if "fid" in wanted:
                figures["fid"] = self._figure("fid", inception.fid(drawn, real), **conditions, details=standard)
            if "kid" in wanted:
                value, spread = inception.kid(drawn, real, self.seed)
                details = standard | {"deviation_of_subsets": spread, "subsets": inception.KID_SUBSETS}
                figures["kid"] = self._figure("kid", value, **conditions, details=details)
        for name, distance in (("frechet", distances.frechet), ("kernel", distances.kernel)):
            if name in wanted:
                figures[name] = self._figure(name, distance(drawn, real), **conditions)
        if "sliced" in wanted:
            figures["sliced"] = self._figure("sliced", distances.sliced(drawn, real, self.seed), **conditions)
        if {"precision", "recall", "density", "coverage", "1nn"} & set(wanted):
            near = neighbours.compare(drawn, real)
            for name in ("precision", "recall", "density", "coverage"):
                if name in wanted:
                    figures[name] = self._figure(name, getattr(near, name), **conditions)
            if "1nn" in wanted:
                figures["1nn"] = self._nearest(near, **conditions)
                if extractor.name not in (features.PIXELS, features.COLUMNS):
                    in_pixels = neighbours.compare(*(features.pixels(each).to(device) for each in (samples, self.real)))
                    figures["1nn_pixels"] = self._nearest(in_pixels, **common, extractor=features.PIXELS)
        return figures

    def gaps(self, found: _Drawn) -> Gaps:
        """The gaps between the statistics of the samples and those of the real data."""
        measures = Measures.of(self.model)
        of_samples, of_real = (measures.measure(values, self.batch_size) for values in (found.samples, self.real))
        return Gaps(
            tuple(gaps(measures.columns, of_samples, of_real)), len(self.real), self.plan.real.split, self.seed,
            self.plan.real.resize, self.solver.in_words(), found.nfe,
        )  # fmt: skip

    def residual(self) -> Figure | None:
        """The first validation figure of the method."""
        data, labels = self.model.standardise(self.unseen), self.plan.real.unseen_labels
        whole = Validation(data, None if labels is None else labels.to(self.model.device), self.seed)

        def measure(rows: range) -> Tensor:
            parts = []
            for part in self._batches(rows):
                found = self.model.method.held_out(self.model.field, whole.part(part))
                parts.append(next(iter(found.values())).cpu())
                self._report(len(part) * _READ)
            return torch.cat(parts)

        return self._mean("residual", self._each(len(data), measure))

    def bits(self) -> Figure | None:
        """Bits per dimension of noised images by the explicit density at its default level."""
        assert self.model.calibration is not None
        level = self.model.calibration.quoted_level
        values = self._of_density(self.unseen, _READ, density.bits_per_dim, level=level)
        return self._mean("bpd", values, level=level, blur_grey_levels=density.blur(self.model, level))

    def bits_by_flow(self) -> Figure | None:
        """Bits per dimension of images without noise by the likelihood of the flow, at the default tolerance."""
        images = self.unseen[: self.plan.flow_images]
        values = self._of_density(images, _FLOW, density.bits_per_dim, method="ode")
        return self._mean("bpd_flow", values, blur_grey_levels=0.0)

    def nats_by_flow(self) -> Figure | None:
        """The negative log-likelihood by the flow, in nats and in the units of the data."""
        rows = self.unseen[: self.plan.flow_images]
        densities = self._of_density(rows, _FLOW, density.log_density, method="ode")
        return self._mean("nll", None if densities is None else -densities)

    def _of_density(
        self, images: Tensor, cost: float, compute: Callable[..., Tensor], **settings: Any
    ) -> Tensor | None:
        def measure(rows: range) -> Tensor:
            parts = []
            for part in self._batches(rows):
                parts.append(
                    compute(
                        self.model, images[part.start : part.stop], seed=self.seed, first=part.start,
                        batch_size=len(part), condition=_rows(self.unseen_classes, part), **settings,
                    )
                )  # fmt: skip
                self._report(len(part) * cost)
            return torch.cat(parts).cpu()

        return self._each(len(images), measure)

    def _batches(self, rows: range) -> list[range]:
        """The rows of each batch of some images."""
        return [rows[part] for part in batches(len(rows), self.batch_size)]

    def _each(self, n: int, measure: Callable[[range], Tensor]) -> Tensor | None:
        """The measurements of n images by all processes, in order; None on all processes but the first."""
        parts = self.group.sharded(n, measure)
        return None if parts is None else torch.cat(parts)

    def _figure(self, name: str, value: float, **conditions: Any) -> Figure:
        """A figure with the conditions of comparisons of samples with real images, unless others are given."""
        measured: dict[str, Any] = {"n": len(self.real), "split": self.plan.real.split, "resize": self.plan.real.resize}
        if self.plan.by_class:
            conditions["details"] = {"condition": "the class of each real image", **conditions.get("details", {})}
        return Figure(value, better=METRICS[name].better, seed=self.seed, **measured | conditions)

    def _nearest(self, found: neighbours.Neighbours, **conditions: Any) -> Figure:
        sides = {"of_real": found.accuracy_real, "of_samples": found.accuracy_samples}
        return self._figure("1nn", found.accuracy, **conditions, details=sides)

    def _mean(self, name: str, values: Tensor | None, **details: float) -> Figure | None:
        """The mean over real images with its standard error; None without values."""
        if values is None:
            return None
        values = values.double()
        error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return self._figure(
            name,
            float(values.mean()),
            n=len(values),
            split=self.plan.real.unseen_split,
            details={"standard_error": error, **details},
        )

    def _report(self, work: float) -> None:
        """Report the progress after this process has done some work. The other processes are assumed to be as fast."""
        self.done += work * self.group.count
        if self.on_progress is not None:
            self.on_progress(min(self.done / self.total, 1.0))


def _rows(classes: Tensor | None, rows: range) -> Tensor | None:
    """The class indices of some images; None without classes."""
    return None if classes is None else classes[rows.start : rows.stop]
