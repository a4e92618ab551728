"""How good a model is: samples against real images, real images under the model, each figure with its conditions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpfb_core.dynamics.solver import Solver
from vpfb_core.machine import distributed
from vpfb_core.methods.base import Validation
from vpfb_core.uses import density
from vpfb_core.uses.draw import sample
from vpfb_core.uses.evaluation import cache, distances, features, neighbours
from vpfb_core.uses.evaluation.metrics import METRICS
from vpfb_core.uses.evaluation.preparation import Plan
from vpfb_core.uses.evaluation.weights import is_standard
from vpfb_core.uses.pictures import to_bytes

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

DEFAULT_BATCH = 256
# What an image costs, in evaluations of the gradient, roughly: to tell which share of the work is done.
_ADAPTIVE, _FEATURES, _READ, _FLOW = 100, 4, 1, 250


@dataclass(frozen=True)
class Figure:
    """One figure and the conditions that it was measured under; None where they do not apply.

    Attributes:
        n: how many real images, and as many samples where samples are compared with them.
        split: of the data.
        better: lower, higher or 0.5.
        resize: how images came to the model's size, and from there to the extractor's.
        weights: SHA-256 of the extractor's weights.
        nfe: mean evaluations of the gradient a sample.
        details: what belongs to this figure alone.
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
        """As JSON shows it: the figure, its conditions and its details side by side."""
        document = asdict(self)
        return document | document.pop("details")


@dataclass(frozen=True)
class Report:
    """What `evaluate` finds.

    Attributes:
        metrics: by name; beside `1nn`, which is of the features, stands `1nn_pixels` where these are not the pixels.
        nfe: mean evaluations of the gradient a sample; None without samples.
        seconds: for all of it.
        reused: whether the features of the real images were kept from an earlier call.
    """

    metrics: dict[str, Figure]
    nfe: float | None
    seconds: float
    reused: bool


def evaluate(
    model: TrainedModel,
    plan: Plan,
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_progress: Callable[[float], None] | None = None,
    **solver: Any,
) -> Report:
    """Measure what the plan says.

    Samples are drawn without a class, and rounded to the grey levels that they would be saved with. Several processes
    of a job share the images; the first gets the figures, the others a report without any.

    Args:
        seed: of samples and of every other random number.
        batch_size: images at once.
        on_progress: hears which share of the work is done, roughly.
        solver: method, nfe, rtol, atol of the sampling, as in `flow.Solver.choose`.
    Raises:
        ConfigError: no such solver.
        SolverError: some sample did not reach its end.
    """
    began = time.monotonic()
    work = _Evaluation(model, plan, Solver.choose(**solver), seed, batch_size, on_progress)
    figures: dict[str, Figure] = {}
    drawn = None
    if plan.extractor is not None:
        drawn = work.draw(plan.extractor)
        if drawn is not None:
            figures |= work.compare(drawn, plan.extractor)
    for name, measure in (("residual", work.residual), ("bpd", work.bits), ("bpd_flow", work.bits_by_flow)):
        if name in plan.metrics and (figure := measure()) is not None:
            figures[name] = figure
    nfe, reused = (drawn.nfe, drawn.reused) if drawn is not None else (None, False)
    return Report(figures, nfe, time.monotonic() - began, reused)


@dataclass(frozen=True)
class _Drawn:
    """Samples beside real images.

    Attributes:
        samples: uint8 (N, C, H, W).
        features, real: of the samples and of the real images, (N, F), on the model's device.
        nfe: mean evaluations of the gradient a sample.
        reused: whether the features of the real images were at hand.
    """

    samples: Tensor
    features: Tensor
    real: Tensor
    nfe: float
    reused: bool


class _Evaluation:
    """While it is carried out."""

    def __init__(
        self,
        model: TrainedModel,
        plan: Plan,
        solver: Solver,
        seed: int,
        batch_size: int,
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.model, self.plan, self.solver, self.seed, self.batch_size = model, plan, solver, seed, batch_size
        self.real, self.unseen = plan.real.images, plan.real.unseen
        self.group = distributed.group()
        self.on_progress, self.done = on_progress, 0.0
        self.draw_cost = solver.nfe or _ADAPTIVE
        self.total = float(plan.extractor is not None) * len(self.real) * (self.draw_cost + 2 * _FEATURES)
        self.total += len(self.unseen) * _READ * sum(name in plan.metrics for name in ("residual", "bpd"))
        self.total += len(self.unseen[: plan.flow_images]) * _FLOW * ("bpd_flow" in plan.metrics)

    def draw(self, extractor: features.Extractor) -> _Drawn | None:
        """As many samples as there are real images, and the features of both; None on all processes but the first."""
        n, device = len(self.real), self.model.device

        def extract(images: Tensor) -> Tensor:
            return extractor.features(
                images, device, batch_size=self.batch_size, on_batch=lambda count: self._hear(count * _FEATURES)
            ).cpu()

        def draw(rows: range) -> tuple[Tensor, Tensor, int]:
            parts, evaluations = [], 0
            for first in rows[:: self.batch_size]:
                count = min(self.batch_size, rows.stop - first)
                drawn = sample(
                    self.model, count, self.seed, first=first, batch_size=count, **self.solver.wishes
                ).require_success()
                evaluations += int(drawn.nfe.sum())
                parts.append(to_bytes(drawn.images))
                self._hear(count * self.draw_cost)
            samples = torch.cat(parts)
            return samples, extract(samples), evaluations

        drawn = self.group.sharded(n, draw)
        real = cache.find(extractor, self.real) if self.group.first else None
        reused = self.group.from_first(lambda: real is not None)
        if reused:
            self._hear(n * _FEATURES / self.group.count)
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
        if {"precision", "recall", "density", "coverage", "1nn"} & set(wanted):
            near = neighbours.compare(drawn, real)
            for name in ("precision", "recall", "density", "coverage"):
                if name in wanted:
                    figures[name] = self._figure(name, getattr(near, name), **conditions)
            if "1nn" in wanted:
                figures["1nn"] = self._nearest(near, **conditions)
                if extractor.name != features.PIXELS:
                    in_pixels = neighbours.compare(*(features.pixels(each).to(device) for each in (samples, self.real)))
                    figures["1nn_pixels"] = self._nearest(in_pixels, **common, extractor=features.PIXELS)
        return figures

    def residual(self) -> Figure | None:
        """The first figure by which the method measures held-out data, at the levels where training draws."""
        data, labels = self.model.standardise(self.unseen), self.plan.real.unseen_labels
        condition = None if labels is None else labels.to(self.model.device)

        def measure(rows: range) -> Tensor:
            parts = []
            for first in rows[:: self.batch_size]:
                part = range(first, min(first + self.batch_size, rows.stop))
                found = self.model.method.held_out(self.model.field, Validation(data, condition, self.seed, part))
                parts.append(next(iter(found.values())).cpu())
                self._hear(len(part) * _READ)
            return torch.cat(parts)

        return self._mean("residual", self._each(len(data), measure))

    def bits(self) -> Figure | None:
        """Bits per dimension of noised images by the explicit density: one pass at the least level quoted."""
        assert self.model.calibration is not None
        level = self.model.calibration.quoted_level
        values = self._bits_of(self.unseen, _READ, level=level)
        return self._mean("bpd", values, level=level, blur_grey_levels=density.blur(self.model, level))

    def bits_by_flow(self) -> Figure | None:
        """Bits per dimension of the images as they are, by the likelihood of the flow at its default tolerance."""
        values = self._bits_of(self.unseen[: self.plan.flow_images], _FLOW, method="ode")
        return self._mean("bpd_flow", values, blur_grey_levels=0.0)

    def _bits_of(self, images: Tensor, cost: float, **settings: Any) -> Tensor | None:
        def measure(rows: range) -> Tensor:
            parts = []
            for first in rows[:: self.batch_size]:
                batch = images[first : min(first + self.batch_size, rows.stop)]
                parts.append(
                    density.bits_per_dim(
                        self.model, batch, seed=self.seed, first=first, batch_size=self.batch_size, **settings
                    )
                )
                self._hear(len(batch) * cost)
            return torch.cat(parts).cpu()

        return self._each(len(images), measure)

    def _each(self, n: int, measure: Callable[[range], Tensor]) -> Tensor | None:
        """What is measured of each of n images by all processes, in order; None on all but the first."""
        parts = self.group.sharded(n, measure)
        return None if parts is None else torch.cat(parts)

    def _figure(self, name: str, value: float, **conditions: Any) -> Figure:
        """Of samples against real images."""
        measured: dict[str, Any] = {"n": len(self.real), "split": self.plan.real.split, "resize": self.plan.real.resize}
        return Figure(value, better=METRICS[name].better, seed=self.seed, **measured | conditions)

    def _nearest(self, found: neighbours.Neighbours, **conditions: Any) -> Figure:
        sides = {"of_real": found.accuracy_real, "of_samples": found.accuracy_samples}
        return self._figure("1nn", found.accuracy, **conditions, details=sides)

    def _mean(self, name: str, values: Tensor | None, **details: float) -> Figure | None:
        """The mean over real images, with its standard error; None where there are no values."""
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

    def _hear(self, work: float) -> None:
        """This process has done so much; the others are as fast."""
        self.done += work * self.group.count
        if self.on_progress is not None:
            self.on_progress(min(self.done / self.total, 1.0))
