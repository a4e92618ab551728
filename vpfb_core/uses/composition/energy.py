"""The composed density of an expression at every noise level, with its score, its velocity and its rate.

Every name has an energy E_i and a constant C_i of the level, log ρ_i = C_i − E_i, so that its log-ratio to the
unconditional density is E_∅ − E_i + C_i − C_∅ (`ratios.py`). The product of diffused densities is not the diffused
product (Du et al. 2023, arXiv 2302.11552), so that the composed flow alone is biased. `composition.sampling` adds
Markov chains, for which the composed density is exact, and weights. The sides of an OR inside an AND or a NOT have the
weights of their products, which depend on how often the classes occur together in the data relative to chance.

The base of several conditional models is the mean of their log ρ_∅. Unconditional models have no such base; theirs is a
standard Gaussian, corrected so that the product Π ρ_i^{w_i} is exact at the data. The flow of such a composition does
not sample from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.per_sample import squared_norm
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine.file_names import typed
from vpfb_core.methods.fields import Transports
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.composition.expression import Expression, parse
from vpfb_core.uses.composition.ratios import Ratio, Ratios, densities_of, mixtures_of, total_exponent
from vpfb_core.uses.composition.terms import ModelName, Term, models_named, resolve

STATISTICS_TOLERANCE = 0.02  # of the standard deviation of the images


class _Evaluated(NamedTuple):
    """The terms of an expression at N points, and after them the base and the bend (see `ratios.py`).

    Attributes:
        ratios: the log-ratios of the terms.
        base: the energy of the base, (N,).
        scores, velocities: (terms + 2, N, …).
    """

    ratios: Ratios
    base: Tensor
    scores: Tensor
    velocities: Tensor


class Composition:
    """The density of an expression of classes of one or several models.

    Args:
        expression: the expression as text or parsed.
        models: the model of the classes, or several models by their names in the expression, where None is the default
            model. They must have one shape and one device, and their data must have the same mean and standard
            deviation, since otherwise the same image would be a different point in each model.
    Attributes:
        expression: the expression with each ~ of a class replaced by the other classes of its group.
        terms: the distinct densities of the expression, including the unconditional density of each conditional model.
            An evaluation of the composed density takes one gradient of the energy of each.
        at_one_level: whether the density is that of one noise level, so that there is no flow to it.
        has_flow: whether the flow alone samples approximately from the density. It does not if there is no
            unconditional density and the exponents do not sum to 1.
    Raises:
        ConfigError: a name does not exist (an `ExpressionError`), the models do not fit together, or a method has no
            energy or no flow.
        CheckpointError: a model in an | is not calibrated.
    """

    def __init__(
        self,
        expression: str | Expression,
        models: TrainedModel | Mapping[str, TrainedModel] | Mapping[ModelName, TrainedModel],
    ) -> None:
        parsed = parse(expression) if isinstance(expression, str) else expression
        given: Mapping[Any, TrainedModel] = {None: models} if isinstance(models, TrainedModel) else models
        if missing := [name for name in models_named(parsed) if name not in given]:
            raise ConfigError(
                f"{parsed} needs the model {missing[0] or 'whose classes need no name'}, which is not given"
            )
        used = {name: given[name] for name in models_named(parsed)}
        self.at_one_level = all(model.at_one_level for model in used.values())
        for model in used.values():
            model.require("energy", "composition")
            if not self.at_one_level:
                model.require("flow", "composition")
            if model.groups:
                model.require_null("composition")
        _require_same_coordinates(used)
        self.expression, terms = resolve(parsed, used)
        self._models = used
        bases = [Term(name, (-1,) * len(model.groups)) for name, model in used.items() if model.groups]
        self.terms = tuple(dict.fromkeys([*terms.values(), *bases]))
        self._row = {name: self.terms.index(term) for name, term in terms.items()}
        self._base = [self.terms.index(base) for base in bases]
        self._is_mixture = any(True for _ in mixtures_of(self.expression))
        self._constants: dict[float, Tensor] = {}
        self._conditions = {
            name: torch.tensor([term.condition for term in self.terms if term.model == name], device=model.device)
            for name, model in used.items() if model.groups
        }  # fmt: skip
        if self._is_mixture:
            for model in used.values():
                model.require("density", "| in a composition")
            _require_calibrated(used, self.terms)
        if not bases:
            _require_densities(self.expression)
        self.has_flow = not self.at_one_level and (
            bool(bases) or all(math.isclose(total_exponent(part), 1) for part in densities_of(self.expression))
        )

    @property
    def model(self) -> TrainedModel:
        """The first model, whose shape and statistics are those of all models."""
        return next(iter(self._models.values()))

    @property
    def levels(self) -> Levels:
        """The noise levels that all models have."""
        found = [model.field.levels for model in self._models.values() if model.field.levels is not None]
        return Levels(
            min(each.highest for each in found),
            max(each.lowest for each in found),
            max(each.lowest_for_chains for each in found),
        )

    @property
    def start(self) -> float:
        """The position of the prior along the composed flow."""
        return max(_flow_of(model).span[0] for model in self._models.values())

    def position(self, level: float) -> float:
        """The position of a noise level along the flow."""
        return _flow_of(self.model).position(level)

    def energy_and_score(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """The composed energy (N,), in nats up to a constant, and the score, at points x (N, …) of a level."""
        found = self._evaluate(x, level)
        ratio = found.ratios.of(self.expression)
        return found.base - ratio.value, _mixed(ratio, found.scores)

    def denoised(self, x: Tensor) -> tuple[Tensor, int]:
        """Data from points of the lowest level, and the evaluations of each term per point that this takes.

        If the densities of the models have different noise, the least of it is removed.
        """
        field = min((model.field for model in self._models.values()), key=lambda field: field.blur)
        return field.denoised(x, partial(self.energy_and_score, level=self.levels.lowest))

    def velocity(self, x: Tensor, s: float) -> Tensor:
        """The composed velocity at points x (N, …), all at one position s of the flow, like x."""
        found = self._evaluate(x, _flow_of(self.model).level(s))
        return _mixed(found.ratios.of(self.expression), found.velocities)

    def rate(self, x: Tensor, s: float) -> Tensor:
        """The rate at which the log-weights of points x (N, …) change along the composed flow, per unit of s, (N,).

        With these weights, points that follow the flow have the composed density. It presumes that the flow of every
        term carries the density of that term.
        """
        level = _flow_of(self.model).level(s)
        found = self._evaluate(x, level)
        products = torch.einsum("ind,jnd->ijn", found.velocities.flatten(2), found.scores.flatten(2))
        names = -products.diagonal().mT[: len(self.terms)]
        if self._base:
            base, bend = self._of_base(names), torch.zeros_like(names[0])
        else:  # the density of the bend is exp(−½ s² ‖x‖²), and its velocity is −s σ x
            signal, deviation = self.model.field.scales(level)
            base, bend = torch.zeros_like(names[0]), -signal * deviation * (squared_norm(x) + x[0].numel())
        return found.ratios.rate(self.expression, products, torch.cat([names, base[None], bend[None]]))

    def _evaluate(self, x: Tensor, level: float) -> _Evaluated:
        """All terms at points x (N, …) of a level, by one batched evaluation per model."""
        energies = x.new_empty(len(self.terms), len(x))
        scores, velocities = (x.new_zeros(len(self.terms) + 2, *x.shape) for _ in range(2))
        for name, model in self._models.items():
            rows = [row for row, term in enumerate(self.terms) if term.model == name]
            copies = x.repeat(len(rows), *[1] * (x.ndim - 1))
            conditions = None
            if model.groups:
                conditions = self._conditions[name].repeat_interleave(len(x), 0)
            found = model.field.energy_score_and_velocity(copies, level, conditions)
            for i, row in enumerate(rows):
                here = slice(i * len(x), (i + 1) * len(x))
                energies[row], scores[row], velocities[row] = (values[here] for values in found)
        half_norm = 0.5 * squared_norm(x)
        if self._base:
            base, bend = self._of_base(energies), torch.zeros_like(half_norm)
            scores[-2], velocities[-2] = self._of_base(scores), self._of_base(velocities)
        else:  # the velocity of the Gaussian base is zero, since points have unit variance at every level
            signal, deviation = self.model.field.scales(level)
            base, bend = half_norm, -(signal**2) * half_norm
            scores[-2], scores[-1], velocities[-1] = -x, -(signal**2) * x, -signal * deviation * x
        log_ratios = base - energies + self._constants_at(level, x)[:, None]
        return _Evaluated(Ratios(self._row, log_ratios, bend), base, scores, velocities)

    def _of_base(self, values: Tensor) -> Tensor:
        """The mean over the unconditional densities of the models, (terms, …) → (…)."""
        # An index that is a list would be copied to the device at every step.
        return torch.stack([values[row] for row in self._base]).mean(0)

    def _constants_at(self, level: float, like: Tensor) -> Tensor:
        """C_i − C_∅ of each term, (terms,), computed once per level; zero without an |."""
        if not self._is_mixture:
            return like.new_zeros(len(self.terms))
        if level not in self._constants:
            found = []
            for term in self.terms:
                calibration = self._models[term.model].calibration
                assert calibration is not None
                found.append(calibration.constant(level, term.condition))
            constants = torch.tensor(found, dtype=torch.float64)
            gaussian = -0.5 * math.prod(self.model.shape) * math.log(2 * math.pi)
            relative = constants - (constants[self._base].mean() if self._base else gaussian)
            self._constants[level] = relative.to(like)
        return self._constants[level]


def _flow_of(model: TrainedModel) -> Transports:
    """The flow of the field of a model, which a composition of flows has required."""
    return cast(Transports, model.field)


def _mixed(ratio: Ratio, gradients: Tensor) -> Tensor:
    """The composed score or velocity, like x, from those of the terms, the base and the bend, (terms + 2, N, …)."""
    coefficients = ratio.coefficients
    return (coefficients.reshape(*coefficients.shape, *[1] * (gradients.ndim - 2)) * gradients).sum(0)


def _require_densities(node: Expression) -> None:
    """Raise ConfigError unless the exponents of every density sum to more than 0, if there is no unconditional base."""
    for density in densities_of(node):
        if (weight := total_exponent(density)) <= 0:
            raise ConfigError(
                f"{density} is not a density: its weights sum to {weight:g}, and no model is conditional",
                hint="make the sum of the weights positive, or use a conditional model",
            )


def _require_calibrated(models: Mapping[ModelName, TrainedModel], terms: tuple[Term, ...]) -> None:
    for name, model in models.items():
        called = "the model" if name is None else f"the model {name}"
        if model.calibration is None:
            raise CheckpointError(
                f"{called} is not calibrated, which | needs for the proportions of its sides",
                hint=f"vpfb info --calibrate {typed(name) if name else 'MODEL'}",
            )
        for term in terms:
            if term.model == name and not model.calibration.knows(term.condition):
                known = zip(model.groups, term.condition, strict=True)
                classes = [group.classes[index] for group, index in known if index >= 0]
                if len(classes) > 1:
                    raise ConfigError(
                        f"{called} is calibrated for single classes, not for {','.join(classes)}, which | needs",
                        hint=f"use {' & '.join(classes)} as a side of |",
                    )
                raise CheckpointError(
                    f"{called} is not calibrated for {', '.join(classes) or 'no class'}, which was not in its data",
                    hint="leave it out of the expression, or train on data that contain it",
                )


def _require_same_coordinates(models: Mapping[ModelName, TrainedModel]) -> None:
    """Raise ConfigError unless all models have one shape, one device, and data of one mean and standard deviation."""
    (first, model), *others = models.items()
    for name, other in others:
        both = f"{first or 'the model'} and {name or 'the model'} cannot be composed: "
        if other.shape != model.shape:
            raise ConfigError(
                f"{both}their images are {model.shape} and {other.shape}", hint="train them with the same `size`"
            )
        if other.device != model.device:
            raise ConfigError(f"{both}they are on {model.device} and {other.device}")
        if model.statistics.distance(other.statistics) > STATISTICS_TOLERANCE:
            raise ConfigError(
                f"{both}their data have mean {model.statistics.in_words()} and {other.statistics.in_words()}",
                hint="composed models need data of the same mean and standard deviation, for example one data set",
            )
