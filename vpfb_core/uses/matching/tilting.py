"""The fit of a tilt, so that the samples of a model have given means of statistics.

For a linear statistic, the samples themselves are moved: the field is tilted, samples are drawn again from the same
noise, and the rest of the way is found from them. Other statistics, and all of them with methods that know no tilted
field, change how often each sample is kept (`uses/rounds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vpfb_core import methods, names
from vpfb_core.data import InMemory
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.dynamics.population import effective_sample_size
from vpfb_core.errors import ConfigError
from vpfb_core.model.conditions import Condition
from vpfb_core.model.tilt import Tilt, TiltedStatistic
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.settings import number
from vpfb_core.uses.draw import sample
from vpfb_core.uses.matching.dual import Dual, maximise, rounds_for
from vpfb_core.uses.measuring.measures import Measures, class_probabilities

ON_A_GPU, ON_A_CPU, FEWEST = 2048, 256, 128  # samples from which a tilt is fitted
_PIXELS_ON_A_CPU = 100_000
STEPS = 12  # the largest number of times that samples are drawn
# How far beyond the range of the samples a linear statistic may be moved, in widths of this range. Digits that were
# moved by three times as much were no longer digits.
BEYOND = 0.25
LEAST_SHARE = 0.1  # the least effective share of the samples from which the next step is found
MOST_ROUNDS = 100
GOALS = 30  # corrections for the difference between limited and unlimited values
Model = TypeVar("Model", bound=TrainedModel)
_NEAR = 0.2  # a step that is shorter than this, in standard errors, needs no new samples


@dataclass(frozen=True)
class Targets:
    """The means that samples should have.

    Attributes:
        means: the mean of each statistic, by name.
        count: the number of data that have these means; infinite for means that are wanted exactly.
    """

    means: Mapping[str, float]
    count: float = math.inf

    @classmethod
    def of_data(
        cls, model: TrainedModel, data: InMemory, statistics: Sequence[str], *, masks: Path | None = None
    ) -> Targets:
        """The means of some statistics over data in the shape of the model. Names and masks are as of `Measures.of`."""
        measures = Measures.of(model, statistics, masks=masks)
        means = measures.measure(data.data).mean(0)
        return cls(dict(zip(measures.columns, means.tolist(), strict=True)), len(data))


def samples_for(model: TrainedModel) -> int:
    """The number of samples from which a tilt is fitted on the device of the model."""
    if model.device.type != "cpu":
        return ON_A_GPU
    return max(FEWEST, min(ON_A_CPU, _PIXELS_ON_A_CPU // math.prod(model.shape[1:])))


def matched(model: Model, targets: Mapping[str, float] | Targets, **settings: Any) -> Model:
    """The model with a tilt that gives its samples these means. Arguments are those of `fit`."""
    return model.with_tilt(fit(model, targets, **settings))


def fit(
    model: TrainedModel,
    targets: Mapping[str, float] | Targets,
    *,
    seed: int = 0,
    count: int | None = None,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    masks: Path | None = None,
    on_progress: Callable[[float], None] | None = None,
    **sampling: Any,
) -> Tilt:
    """The tilt that gives the samples of a model these means. A tilt that the model has is ignored.

    Args:
        model: the model.
        targets: the mean of each statistic by name, such as {"brightness": 0.4}.
        seed: the seed of the samples. They are the first samples of `draw.sample` with this seed.
        count: the number of samples; None is `samples_for`.
        condition, guidance, batch_size, sampling: as in `draw.sample`.
        masks: as in `Measures.of`.
        on_progress: called with the share of the work that is done, in [0, 1], by estimate.
    Raises:
        ConfigError: a statistic does not exist, its mean is no number, or no sample or too few samples reach the means.
            The message names the extremes.
    """
    wanted = (
        targets if isinstance(targets, Targets) else Targets({name: number(name, targets[name]) for name in targets})
    )
    if not wanted.means:
        raise ConfigError("no statistic is given", hint="for example brightness=0.4")
    model = model.untilted
    draw = {"condition": condition, "guidance": guidance, "batch_size": batch_size, **sampling}
    measures = Measures.of(model, wanted.means, masks=masks)
    fitting = _Fitting(model, wanted, measures, seed, count or samples_for(model), draw, on_progress)
    return fitting.run(calibrated=condition is None)


class _Fitting:
    """A fit in progress."""

    def __init__(
        self,
        model: TrainedModel,
        wanted: Targets,
        measures: Measures,
        seed: int,
        count: int,
        draw: Mapping[str, Any],
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.model, self.seed, self.count, self.draw, self.on_progress = model, seed, count, draw, on_progress
        self.measures = measures
        if self.measures.columns != tuple(wanted.means):
            several = next(name for name in wanted.means if name not in self.measures.columns)
            columns = Measures.of(model, [several]).columns
            raise ConfigError(f"{several} has several values: {', '.join(columns)}", hint=f"{columns[0]}=VALUE")
        self.target = torch.tensor(list(wanted.means.values()), dtype=torch.float64)
        self.ridge = 1 / count + 1 / wanted.count
        self._check_limits()
        templates = self.measures.templates() if methods.gives(model.method.name, "tilt") else {}
        self.shifted = torch.tensor([name in templates for name in self.measures.columns])
        self.directions = _directions(model, list(templates.values()))  # (shifted statistics, *shape)
        self.low = torch.full_like(self.target, torch.inf)
        self.high = -self.low

    def run(self, *, calibrated: bool) -> Tilt:
        """The tilt. With `calibrated`, it has the constants of all conditions that are calibrated."""
        weights = torch.zeros_like(self.target)
        log_partition = 0.0
        first = found = None
        relaxed = _Relaxed()
        for step in range(STEPS):
            images, data, statistics = self._samples(weights)
            exponents = self._exponents(statistics, data)
            if first is None:
                first = images, exponents
                self._check_reach()
            solution, share = self._towards(statistics, exponents)
            if solution is None:
                break
            change = torch.where(self.shifted, solution.weights, 0.0)
            near = bool((change.abs() * exponents.std(0) < _NEAR / math.sqrt(self.count)).all())
            if share == 1 and not near:
                change = relaxed.next(change, change * exponents.std(0))
            log_partition += self._log_partition(change, data)
            weights = weights + change
            found = solution if share == 1 else None
            if self.on_progress is not None:
                self.on_progress(1 - 0.5 ** (step + 1))
            if found is not None and near:
                break
        if found is None or first is None:
            raise self._unreachable()
        rest = torch.where(self.shifted, 0.0, found.weights)
        rounds = self._rounds(statistics, rest)
        total = weights + rest
        constants = self._constants(log_partition, first[0], images) if calibrated and bool(self.shifted.any()) else {}
        nats = self._divergence(found, weights, rest, statistics, data) - log_partition
        ess = float(effective_sample_size(first[1] @ total)) / len(first[1])
        if self.on_progress is not None:
            self.on_progress(1.0)
        entries = zip(self.measures.columns, self.target.tolist(), total.tolist(), self.shifted.tolist(), strict=True)
        return Tilt(
            tuple(TiltedStatistic(*entry) for entry in entries), self._direction(weights), constants, rounds, ess, nats
        )

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _samples(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples of the model with the linear part of a tilt: in public form, standardised, and their statistics."""
        tilted = self.model.with_tilt(Tilt.along(self._direction(weights)))
        drawn = sample(tilted, self.count, self.seed, **self.draw).require_success()
        statistics = self.measures.measure(drawn.images)
        self.low = torch.minimum(self.low, statistics.amin(0))
        self.high = torch.maximum(self.high, statistics.amax(0))
        return drawn.images, drawn.solution.x, statistics

    def _exponents(self, statistics: Tensor, data: Tensor) -> Tensor:
        """The functions T in the exponent of the tilt, (M, statistics).

        The field of tilted data knows linear statistics as functions of data that are not limited to [0, 1] or rounded.
        """
        if not bool(self.shifted.any()):
            return statistics
        unlimited = self.measures.measure(self.model.statistics.unrounded(data))
        return torch.where(self.shifted, unlimited, statistics)

    def _towards(self, statistics: Tensor, exponents: Tensor) -> tuple[Dual | None, float]:
        """The tilt of samples towards the target, and the share of the way that it goes.

        Linear statistics need not go the whole way at once, since their samples move with them.
        """
        share, mean = 1.0, statistics.mean(0)
        while share > 1e-2:
            wanted = torch.where(self.shifted, mean + share * (self.target - mean), self.target)
            solution = self._tilt_to(wanted, statistics, exponents)
            if not bool(self.shifted.any()):
                return solution, 1.0
            if solution is not None and solution.share >= LEAST_SHARE:
                return solution, share
            share /= 2
        return None, 0.0

    def _tilt_to(self, wanted: Tensor, statistics: Tensor, exponents: Tensor) -> Dual | None:
        """The tilt by exp(λ·exponents) under which the statistics of samples have these means."""
        goal = torch.where(self.shifted, exponents.mean(0) + wanted - statistics.mean(0), wanted)
        solution = maximise(exponents, goal, self.ridge)
        for _ in range(GOALS if bool(self.shifted.any()) else 0):
            if solution is None:
                break
            apart = torch.where(self.shifted, wanted - solution.probabilities @ statistics, 0.0)
            if bool((apart.abs() <= 1e-3 * statistics.std(0)).all()):
                break
            goal = goal + apart
            solution = maximise(exponents, goal, self.ridge)
        return solution

    def _direction(self, weights: Tensor) -> Tensor:
        """The direction of the tilt with these weights, float32, of the shape of a datum."""
        if not len(self.directions):
            return torch.zeros(self.model.shape)
        return torch.tensordot(weights[self.shifted], self.directions, 1).float()

    def _log_partition(self, change: Tensor, data: Tensor) -> float:
        """log E exp(ℓ·z) for a change ℓ of the direction, over standardised data of the tilt before it."""
        exponents = data.flatten(1).double() @ self._direction(change).double().flatten()
        return float(torch.logsumexp(exponents, 0) - math.log(len(exponents)))

    # --- the result ---------------------------------------------------------------------------------------------------

    def _rounds(self, statistics: Tensor, rest: Tensor) -> int:
        """The number of rounds for the statistics that samples are not moved for."""
        if not bool(rest.any()):
            return 0
        worst = torch.softmax(statistics @ rest, 0).max() * len(statistics)
        rounds = rounds_for(float(worst))
        if rounds > MOST_ROUNDS:
            raise ConfigError(
                f"{self._in_words(~self.shifted)} is too rare: it takes {rounds:,.0f} proposals per sample, and the "
                f"most is {MOST_ROUNDS}",
                hint=self._hint(),
            )
        return int(rounds)

    def _divergence(self, found: Dual, weights: Tensor, rest: Tensor, statistics: Tensor, data: Tensor) -> float:
        """The mean of the exponent of the tilt over its samples, less the log Z of the statistics in `rest`.

        Linear statistics enter as functions of the standardised data, whose images are not limited to [0, 1].
        """
        linear = data.flatten(1).double() @ self._direction(weights).double().flatten()
        others = statistics @ rest
        of_rest = torch.logsumexp(others, 0) - math.log(len(others))
        return float(found.probabilities @ (linear + others) - of_rest)

    def _constants(self, log_partition: float, first: Tensor, last: Tensor) -> dict[tuple[int, ...], float]:
        """log Z of each condition that is calibrated.

        That of a class follows from its share of the samples before and after the tilt, which does not change the
        probability of a class given an image.
        """
        model = self.model
        null = (-1,) * len(model.groups)
        found = {null: log_partition}
        if model.calibration is None:
            return found
        classes = [
            condition
            for position, group in enumerate(model.groups)
            for index in range(len(group.classes))
            if model.calibration.knows(condition := (*null[:position], index, *null[position + 1 :]))
        ]
        if classes:
            before, after = (
                torch.cat(
                    [class_probabilities(model, part, classes).cpu().double() for part in each.split(DEFAULT_BATCH)]
                )
                for each in (first, last)
            )
            ratios = torch.log(after.mean(0).clamp(min=1e-9) / before.mean(0).clamp(min=1e-9))
            found |= {condition: log_partition + float(ratio) for condition, ratio in zip(classes, ratios, strict=True)}
        return found

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _check_limits(self) -> None:
        low, high = self.measures.limits()
        noun = "row" if isinstance(self.model.statistics, TableStatistics) else "image"
        for name, value, least, most in zip(self.measures.columns, self.target.tolist(), low, high, strict=True):
            if not math.isfinite(value):
                raise ConfigError(f"{name} = {value} is not a finite number", hint=f"for example {name}=0.4")
            if not least <= value <= most:
                raise ConfigError(
                    f"no {noun} has {name} = {value:g}", hint=f"{name} lies between {least:g} and {most:g}"
                )

    def _check_reach(self) -> None:
        """Refuse targets that are too far from the samples, once the first ones are drawn."""
        beyond = torch.where(self.shifted, BEYOND, 0.0) * (self.high - self.low)
        if bool(((self.target < self.low - beyond) | (self.target > self.high + beyond)).any()):
            raise self._unreachable()

    def _unreachable(self) -> ConfigError:
        outside = (self.target < self.low) | (self.target > self.high)
        named = outside if bool(outside.any()) else torch.ones_like(outside)
        together = "" if int(named.sum()) == 1 or bool(outside.any()) else " at once"
        return ConfigError(f"no samples have {self._in_words(named)}{together}", hint=self._hint(named))

    def _in_words(self, chosen: Tensor) -> str:
        pairs = zip(self.measures.columns, self.target.tolist(), chosen.tolist(), strict=True)
        return ", ".join(f"{name} = {value:g}" for name, value, ours in pairs if ours)

    def _hint(self, chosen: Tensor | None = None) -> str:
        """The extremes of the samples, and the methods that move samples if this one does not."""
        rows = zip(self.measures.columns, self.low.tolist(), self.high.tolist(), strict=True)
        marked = [True] * len(self.target) if chosen is None else chosen.tolist()
        extremes = [
            f"{name} from {low:.4g} to {high:.4g}" for (name, low, high), ours in zip(rows, marked, strict=True) if ours
        ]
        hint = f"{self.count} samples have {', '.join(extremes)}"
        moved = set(self.measures.templates()) & set(self.measures.columns)
        if moved and not methods.gives(self.model.method.name, "tilt"):
            hint += f"; methods that move samples towards linear statistics: {', '.join(names.methods_with('tilt'))}"
        return hint


class _Relaxed:
    """Steps of a fixed point that are shortened where they go to and fro (Aitken's relaxation).

    Few samples have another covariance than the response of their means to the tilt.
    """

    def __init__(self) -> None:
        self._factor = 1.0
        self._last: Tensor | None = None

    def next(self, change: Tensor, units: Tensor) -> Tensor:
        """The step, shortened; `units` is the same step in units of its size."""
        if self._last is not None:
            difference = units - self._last
            factor = -self._factor * float(self._last @ difference) / max(float(difference @ difference), 1e-30)
            self._factor = min(max(factor, 0.1), 1.0)
        self._last = units
        return self._factor * change


def _directions(model: TrainedModel, templates: Sequence[Tensor]) -> Tensor:
    """The gradients of linear statistics in standardised data, float64 (statistics, *shape), from those in values."""
    ends = torch.stack([torch.zeros(model.shape), torch.ones(model.shape)])
    zero, one = model.statistics.unrounded(ends).double()
    return (
        torch.stack([template * (one - zero) for template in templates]) if templates else torch.empty(0, *model.shape)
    )
