"""The algebra of composition: the density of an expression at every noise level, with its score and its velocity.

Every name i has an energy E_i and a constant C_i of the level, log ρ_i = C_i − E_i. Relative to a base, the
unconditional density ρ_∅, each node of the tree has a log-ratio r = log ρ − log ρ_∅:

    name      r_i = E_∅ − E_i + C_i − C_∅
    AND       Σ r                   weight w of an exponent: w r                   NOT: −r
    OR        log Σ π_k exp r_k,    π_k the weights of the sides over their sum: a mixture, exact at every level

and the composed log-density is log ρ_∅ + r. Its score and its velocity are those of the base plus Σ_i ∂r/∂r_i times the
difference of those of i and the base. AND and NOT keep a total weight of 1. The product of diffused densities is not
the diffused product (Du et al. 2023, arXiv 2302.11552), so that the composed flow alone is biased.
`composition.sampling` adds Markov chains, for which the composed density is exact. The sides of an OR inside an AND or
a NOT have the weights of their products, which depend on how often the classes occur together in the data relative to
chance.

The base of several conditional models is the mean of their log ρ_∅. Unconditional models have no such base. Their base
is a standard Gaussian, whose surplus or deficit is removed towards the data, so that the product Π ρ_i^{w_i} is exact
at the data: with w the sum of the weights and s the factor of the data in a point of the level, r is increased by ½ (1
− w) s² ‖x‖². The flow of such a composition does not sample from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.data.statistics import Statistics
from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.per_sample import expand_to, squared_norm
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine.file_names import typed
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.composition.expression import And, Expression, Name, Not, Or, Weighted, parse, parts_of
from vpfb_core.uses.composition.terms import ModelName, Term, models_named, resolve

STATISTICS_TOLERANCE = 0.02  # of the standard deviation of the images


@dataclass(frozen=True)
class _Ratio:
    """The log-ratio r of a node at N points, with its derivatives.

    Attributes:
        value: r, (N,).
        shares: ∂r/∂r_i for each term, (terms, N).
        surplus: the sum of the exponents minus one, for which a Gaussian base is corrected, (N,). It is not used if
            there is an unconditional base.
    """

    value: Tensor
    shares: Tensor
    surplus: Tensor


class Composition:
    """The density of an expression of classes of one or several models.

    Args:
        expression: the expression as text or parsed.
        models: the model of the classes, or several models by their names in the expression, where None is the default
            model. They must have one shape and one device, and their data must have the same mean and standard
            deviation, since otherwise the same image would be a different point in each model.
    Attributes:
        expression: the expression with each ~ of a group of two classes replaced by the other class.
        terms: the distinct densities of the expression, including the unconditional density of each conditional model.
            An evaluation of the composed density takes one gradient of the energy of each.
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
        for model in used.values():
            model.require("energy", "composition")
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
        self._is_mixture = any(True for _ in _mixtures(self.expression))
        self._constants: dict[float, Tensor] = {}
        self._conditions = {
            name: torch.tensor([term.condition for term in self.terms if term.model == name], device=model.device)
            for name, model in used.items() if model.groups
        }  # fmt: skip
        if self._is_mixture:
            _require_calibrated(used, self.terms)
        if not bases:
            _require_densities(self.expression)
        self.has_flow = bool(bases) or all(math.isclose(_weight(part), 1) for part in _densities(self.expression))

    @property
    def model(self) -> TrainedModel:
        """The first model, whose shape and statistics are those of all models."""
        return next(iter(self._models.values()))

    @property
    def levels(self) -> Levels:
        """The noise levels that all models have."""
        found = [model.field.levels for model in self._models.values() if model.field.levels is not None]
        return Levels(min(each.highest for each in found), max(each.lowest for each in found))

    @property
    def start(self) -> float:
        """The position of the prior along the composed flow."""
        return max(self._field(model).span[0] for model in self._models.values())

    def position(self, level: float) -> float:
        """The position of a noise level along the flow."""
        position: float = self._field(self.model).position(level)
        return position

    def energy_and_score(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """The composed energy (N,), in nats up to a constant, and the score, at points x (N, …) of a level."""
        energies, scores = self._evaluate("energy_and_score", x, level)
        ratio, base = self._ratio(energies, x, level)
        score = self._mixed(ratio, scores, -x)
        if not self._base:
            signal, _ = self.model.field.scales(level)
            score = score - expand_to(ratio.surplus * signal**2, x) * x
        return base - ratio.value, score

    def velocity(self, x: Tensor, s: float) -> Tensor:
        """The composed velocity at points x (N, …), all at one position s of the flow, like x."""
        level = self._field(self.model).level(s)
        energies, velocities = self._evaluate("energy_and_velocity", x, level)
        ratio, _ = self._ratio(energies, x, level)
        velocity = self._mixed(ratio, velocities, torch.zeros_like(x))
        if not self._base:  # the velocity of the Gaussian base is zero, since points have unit variance at every level
            signal, deviation = self.model.field.scales(level)
            velocity = velocity - expand_to(ratio.surplus * signal * deviation, x) * x
        return velocity

    @staticmethod
    def _field(model: TrainedModel) -> Any:
        """The field of a model, which has an energy and a flow."""
        return model.field

    def _evaluate(self, what: str, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """The energies (terms, N) and gradients (terms, N, …) of all terms, by one batched evaluation per model.

        Args:
            what: the method of the fields: "energy_and_score" or "energy_and_velocity".
        """
        energies = x.new_empty(len(self.terms), len(x))
        gradients = x.new_empty(len(self.terms), *x.shape)
        for name, model in self._models.items():
            rows = [row for row, term in enumerate(self.terms) if term.model == name]
            copies = x.repeat(len(rows), *[1] * (x.ndim - 1))
            conditions = None
            if model.groups:
                conditions = self._conditions[name].repeat_interleave(len(x), 0)
            energy, gradient = getattr(model.field, what)(copies, level, conditions)
            for i, row in enumerate(rows):
                here = slice(i * len(x), (i + 1) * len(x))
                energies[row], gradients[row] = energy[here], gradient[here]
        return energies, gradients

    def _ratio(self, energies: Tensor, x: Tensor, level: float) -> tuple[_Ratio, Tensor]:
        """The log-ratio of the whole expression to the base, and the energy of the base, (N,)."""
        half_norm = 0.5 * squared_norm(x)
        base = self._of_base(energies) if self._base else half_norm
        log_ratios = base - energies + self._constants_at(level, x)[:, None]
        signal, _ = self.model.field.scales(level)
        bend = torch.zeros_like(half_norm) if self._base else -(signal**2) * half_norm
        return self._combine(self.expression, log_ratios, bend), base

    def _mixed(self, ratio: _Ratio, gradients: Tensor, gaussian: Tensor) -> Tensor:
        """The composed score or velocity, like x, from those of the terms (terms, N, …).

        Args:
            gaussian: the score or velocity of the Gaussian base, which is used if there is no unconditional base.
        """
        base = self._of_base(gradients) if self._base else gaussian
        mixed = base
        for share, gradient in zip(ratio.shares, gradients, strict=True):
            mixed = mixed + expand_to(share, base) * (gradient - base)
        return mixed

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

    def _combine(self, node: Expression, log_ratios: Tensor, bend: Tensor) -> _Ratio:
        """The log-ratio of a node.

        Args:
            log_ratios: the log-ratios of the terms, (terms, N).
            bend: the correction of r per exponent beyond one, (N,); zero if there is an unconditional base.
        """
        if isinstance(node, Name):
            shares = torch.zeros_like(log_ratios)
            shares[self._row[node]] = 1
            return _Ratio(log_ratios[self._row[node]], shares, torch.zeros_like(bend))
        if isinstance(node, Or):
            sides = _sides(node)
            parts = [self._combine(side, log_ratios, bend) for _, side in sides]
            return _mixture(parts, [weight for weight, _ in sides])
        parts = [self._combine(part, log_ratios, bend) for part in parts_of(node)]
        return _product(parts, _exponents(node), bend)


def _product(parts: list[_Ratio], powers: list[float], bend: Tensor) -> _Ratio:
    """The log-ratio Σ w r of a product, with the correction `bend` for each exponent beyond one."""
    beyond = sum(powers) - 1
    return _Ratio(
        sum(power * part.value for power, part in zip(powers, parts, strict=True)) + beyond * bend,
        torch.stack([power * part.shares for power, part in zip(powers, parts, strict=True)]).sum(0),
        torch.stack([power * part.surplus for power, part in zip(powers, parts, strict=True)]).sum(0) + beyond,
    )


def _mixture(sides: list[_Ratio], weights: list[float]) -> _Ratio:
    """The log-ratio log Σ π_k exp r_k of a mixture. The derivatives of a side are weighted by its share of the sum."""
    joint = torch.stack(
        [side.value + math.log(weight / sum(weights)) for side, weight in zip(sides, weights, strict=True)]
    )
    share = torch.softmax(joint, 0)
    return _Ratio(
        torch.logsumexp(joint, 0),
        (share[:, None] * torch.stack([side.shares for side in sides])).sum(0),
        (share * torch.stack([side.surplus for side in sides])).sum(0),
    )


def _exponents(node: And | Weighted | Not) -> list[float]:
    """The exponent of each part's density in that of the node."""
    match node:
        case Weighted(weight):
            return [weight]
        case Not():
            return [-1.0]
    return [1.0] * len(node.parts)


def _weight(node: Expression) -> float:
    """The sum of the exponents of the densities in a node, where a mixture counts as one density."""
    if isinstance(node, Name | Or):
        return 1.0
    return sum(power * _weight(part) for power, part in zip(_exponents(node), parts_of(node), strict=True))


def _sides(node: Or) -> list[tuple[float, Expression]]:
    """The sides of an |, each with its weight in the mixture."""
    return [(part.weight, part.part) if isinstance(part, Weighted) else (1.0, part) for part in node.parts]


def _densities(node: Expression) -> Iterator[Expression]:
    """The nodes that must be densities: the whole expression, and every side of an |."""
    yield node
    for inner in _mixtures(node):
        for _, side in _sides(inner):
            yield from _densities(side)


def _mixtures(node: Expression) -> Iterator[Or]:
    """The outermost | of a node."""
    if isinstance(node, Or):
        yield node
    else:
        for part in parts_of(node):
            yield from _mixtures(part)


def _require_densities(node: Expression) -> None:
    """Raise ConfigError unless the exponents of every density sum to more than 0, if there is no unconditional base."""
    for density in _densities(node):
        if (weight := _weight(density)) <= 0:
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
                f"{both}their images are {model.shape} and {other.shape}", hint="train them with the same --size"
            )
        if other.device != model.device:
            raise ConfigError(f"{both}they are on {model.device} and {other.device}")
        if not _alike(model.statistics, other.statistics):
            raise ConfigError(
                f"{both}their data have mean {_shown(model.statistics)} and {_shown(other.statistics)}",
                hint="composed models need data of the same mean and standard deviation, for example one data set",
            )


def _alike(one: Statistics, other: Statistics) -> bool:
    tolerance = STATISTICS_TOLERANCE * max(one.std, other.std)
    apart = [abs(a - b) for a, b in zip((*one.mean, one.std), (*other.mean, other.std), strict=True)]
    return max(apart) <= tolerance


def _shown(statistics: Statistics) -> str:
    return f"{'/'.join(f'{mean:.3f}' for mean in statistics.mean)} (std {statistics.std:.3f})"
