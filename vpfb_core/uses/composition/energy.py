"""The algebra of composition: one density of an expression at every level of the arc, with its gradient.

Every name i has log ρ_i = −½‖u‖² + tan φ N_i(u, φ) + C_i(φ). Against a base, the density without condition ρ_∅, each
node of the tree has a ratio r = log ρ − log ρ_∅:

    name      r_i = tan φ (N_i − N_∅) + C_i − C_∅
    AND       Σ r                   weight w of an exponent: w r                   NOT: −r
    OR        log Σ π_k exp r_k,    π_k the weights of the sides over their sum: a mixture, exact at every φ

and the composed density is log ρ_∅ + r, its velocity along the arc ∇N = ∇N_∅ + Σ_i ∂r/∂r_i (∇N_i − ∇N_∅). AND and NOT
keep a total weight of 1, so that flow and density hold formally; but the product of diffused densities is not the
diffused product (Du et al. 2023, arXiv 2302.11552), and the flow alone is biased: `composition.sampling` adds Markov
chains, to which this density is exact. Their sides of an | are as heavy as the products come out: as often as the
classes occur together in the data, relative to chance.

Several conditional models share the mean of their N_∅ as base. Unconditional models alone have none: the base is then
a standard Gaussian, N_∅ = 0, and what of it is too much or too little is taken out towards the data, so that the
product Π ρ_i^{w_i} ends exact: with w the sum of weights, r gains ½ (1 − w) sin² φ ‖u‖². Its flow alone is no sampler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.data.statistics import Statistics
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.methods.vpfb.homotopy import expand_to
from vpfb_core.model.trained import Model
from vpfb_core.uses.composition.expression import And, Expression, Name, Not, Or, Weighted, parse, parts_of
from vpfb_core.uses.composition.terms import ModelName, Term, models_named, resolve

STATISTICS_TOLERANCE = 0.02  # of the standard deviation of the images


class ComposedField(NamedTuple):
    """The composed density and velocity at points of the arc."""

    log_density: Tensor  # up to a function of φ, (N,)
    gradient: Tensor  # ∇N, shaped like u: the velocity du/dφ


class _Ratio(NamedTuple):
    """Of a node: r, and its derivative in each row of what it is made of."""

    value: Tensor  # (N,)
    shares: Tensor  # (rows, N)


class Composition:
    """One density of an expression of the classes of one or several models.

    Args:
        expression: as typed or parsed.
        models: the model whose classes it names, or several by the name that the expression has for them, None for the
            one that needs no name. All of one shape, on one device, and of data of equal mean and deviation: on the
            arc of another scale a picture is another point.
    Attributes:
        expression: with each ~ of two classes resolved to the other.
        terms: the distinct densities it is made of, those without condition of each conditional model among them; an
            evaluation of the composed field takes a gradient of N of each.
        has_flow: whether the flow alone draws from it, if biased: not where exponents that do not sum to 1 meet no
            density without condition.
    Raises:
        ConfigError: names that do not exist (an `ExpressionError`), or models that do not fit together.
        CheckpointError: an | of models that are not calibrated.
    """

    def __init__(self, expression: str | Expression, models: Model | Mapping[ModelName, Model]) -> None:
        parsed = parse(expression) if isinstance(expression, str) else expression
        given: Mapping[ModelName, Model] = {None: models} if isinstance(models, Model) else models
        if missing := [name for name in models_named(parsed) if name not in given]:
            raise ConfigError(
                f"{parsed} needs the model {missing[0] or 'whose classes need no name'}, which is not given"
            )
        used = {name: given[name] for name in models_named(parsed)}
        _require_same_coordinates(used)
        self.expression, terms = resolve(parsed, used)
        self._models = used
        bases = [Term(name, (-1,) * len(model.groups)) for name, model in used.items() if model.groups]
        self.terms = tuple(dict.fromkeys([*terms.values(), *bases]))
        self._row = {name: self.terms.index(term) for name, term in terms.items()}
        self._base = [self.terms.index(base) for base in bases]
        self._is_mixture = any(True for _ in _mixtures(self.expression))
        if self._is_mixture:
            _require_calibrated(used, self.terms)
        if not bases:
            _require_densities(self.expression)
        self.has_flow = bool(bases) or all(math.isclose(_weight(part), 1) for part in _densities(self.expression))

    @property
    def model(self) -> Model:
        """The first model: its shape and statistics are those of all."""
        return next(iter(self._models.values()))

    @property
    def angle_range(self) -> tuple[float, float]:
        """The part of the arc that all models cover."""
        ranges = [model.potential.angle_range for model in self._models.values()]
        return max(start for start, _ in ranges), min(end for _, end in ranges)

    def field(self, u: Tensor, angle: Tensor) -> ComposedField:
        """The composed log-density and ∇N at points u (N, …) of the arc at angles φ (N,). Without autograd."""
        values, gradients = self._evaluate(u, angle)
        tangent, sine, cosine = torch.tan(angle), torch.sin(angle), torch.cos(angle)
        half_norm = 0.5 * u.flatten(1).square().sum(1)
        base = values[self._base].mean(0) if self._base else torch.zeros_like(tangent)
        base_gradient = gradients[self._base].mean(0) if self._base else torch.zeros_like(u)

        ratios = tangent * (values - base) + self._constants(angle)
        bend = torch.zeros_like(half_norm) if self._base else -sine.square() * half_norm
        ratio = self._combine(self.expression, torch.cat([ratios, bend[None]]))

        gradient = base_gradient
        for share, term in zip(ratio.shares[:-1], gradients, strict=True):
            gradient = gradient + expand_to(share, u) * (term - base_gradient)
        if not self._base:
            gradient = gradient - expand_to(ratio.shares[-1] * sine * cosine, u) * u
        return ComposedField(tangent * base + ratio.value - half_norm, gradient)

    def velocity(self, u: Tensor, angle: Tensor) -> Tensor:
        """du/dφ = ∇N of the composed flow, like u."""
        return self.field(u, angle).gradient

    def target(self, u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density (N,) and its gradient −u + tan φ ∇N, like u: what `flow.langevin` walks on."""
        log_density, gradient = self.field(u, angle)
        return log_density, expand_to(torch.tan(angle), u) * gradient - u

    def _evaluate(self, u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """N (K, N) and ∇N (K, N, …) of each term: one forward and one backward pass a model."""
        values = u.new_empty(len(self.terms), len(u))
        gradients = u.new_empty(len(self.terms), *u.shape)
        for name, model in self._models.items():
            rows = [row for row, term in enumerate(self.terms) if term.model == name]
            copies = u.repeat(len(rows), *[1] * (u.ndim - 1))
            conditions = None
            if model.groups:
                distinct = torch.tensor([self.terms[row].condition for row in rows], device=u.device)
                conditions = distinct.repeat_interleave(len(u), 0)
            with torch.no_grad():
                found = model.potential.arc(copies, angle.repeat(len(rows)), conditions)
            values[rows] = found.value.to(u.dtype).reshape(len(rows), len(u))
            gradients[rows] = found.gradient.reshape(len(rows), *u.shape)
        return values, gradients

    def _constants(self, angle: Tensor) -> Tensor:
        """C_i − C_∅ of each term, (K, N); zeros where no side of an | needs it."""
        if not self._is_mixture:
            return angle.new_zeros(len(self.terms), len(angle))
        wide = angle.detach().cpu().double()  # constants are large and their differences are not
        rows = []
        for term in self.terms:
            normaliser = self._models[term.model].normaliser
            assert normaliser is not None
            condition = torch.tensor(term.condition).expand(len(angle), -1) if term.condition else None
            rows.append(normaliser.constant(wide, condition))
        constants = torch.stack(rows)
        gaussian = -0.5 * math.prod(self.model.shape) * math.log(2 * math.pi)
        base = constants[self._base].mean(0) if self._base else torch.full_like(wide, gaussian)
        return (constants - base).to(angle)

    def _combine(self, node: Expression, rows: Tensor) -> _Ratio:
        """r of a node from the ratios of the terms and, as the last row, what an exponent of one more adds, (K + 1, N).

        Where there is a base that row is 0.
        """
        if isinstance(node, Name):
            shares = torch.zeros_like(rows)
            shares[self._row[node]] = 1
            return _Ratio(rows[self._row[node]], shares)
        if isinstance(node, Or):
            sides = _sides(node)
            return _mixture([self._combine(side, rows) for _, side in sides], [weight for weight, _ in sides])
        return _product([self._combine(part, rows) for part in parts_of(node)], _exponents(node), rows)


def _product(parts: list[_Ratio], weights: list[float], rows: Tensor) -> _Ratio:
    """Σ w r, and the last row for each exponent beyond one."""
    powers = rows.new_tensor(weights)[:, None]
    value = (powers * torch.stack([part.value for part in parts])).sum(0)
    shares = (powers[..., None] * torch.stack([part.shares for part in parts])).sum(0)
    surplus = sum(weights) - 1
    shares[-1] += surplus
    return _Ratio(value + surplus * rows[-1], shares)


def _mixture(sides: list[_Ratio], weights: list[float]) -> _Ratio:
    """log Σ π_k exp r_k; a side's share of the derivative is what it has of the sum."""
    values = torch.stack([side.value for side in sides])
    portions = values.new_tensor(weights) / sum(weights)
    joint = torch.log(portions)[:, None] + values
    shares = (torch.softmax(joint, 0)[:, None] * torch.stack([side.shares for side in sides])).sum(0)
    return _Ratio(torch.logsumexp(joint, 0), shares)


def _exponents(node: And | Weighted | Not) -> list[float]:
    """The exponent of each part's density in that of the node."""
    match node:
        case Weighted(weight):
            return [weight]
        case Not():
            return [-1.0]
    return [1.0] * len(node.parts)


def _weight(node: Expression) -> float:
    """The exponents of densities in all; a mixture is one."""
    if isinstance(node, Name | Or):
        return 1.0
    return sum(power * _weight(part) for power, part in zip(_exponents(node), parts_of(node), strict=True))


def _sides(node: Or) -> list[tuple[float, Expression]]:
    """The sides of an |, each with its share of the mixture: the weight in front of it."""
    return [(part.weight, part.part) if isinstance(part, Weighted) else (1.0, part) for part in node.parts]


def _densities(node: Expression) -> Iterator[Expression]:
    """The nodes that must be densities of their own: the whole, and every side of an |."""
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
    """Without a density without condition, exponents must sum to more than 0."""
    for density in _densities(node):
        if (weight := _weight(density)) <= 0:
            raise ConfigError(
                f"{density} is no density: its weights sum to {weight:g}, and no model here draws without class",
                hint="give what is asked for more weight than what is not, or use a conditional model",
            )


def _require_calibrated(models: Mapping[ModelName, Model], terms: tuple[Term, ...]) -> None:
    for name, model in models.items():
        called = "the model" if name is None else f"the model {name}"
        if model.normaliser is None:
            raise CheckpointError(
                f"{called} has no normaliser, so the sides of | have no proportions",
                hint=f"vpfb info --calibrate {name or 'MODEL'}",
            )
        for term in terms:
            if term.model == name and term.condition not in model.normaliser.constants:
                known = zip(model.groups, term.condition, strict=True)
                classes = [group.classes[index] for group, index in known if index >= 0]
                if len(classes) > 1:
                    raise ConfigError(
                        f"{called} is calibrated for one class at a time, not for {','.join(classes)}: | needs that",
                        hint=f"{' & '.join(classes)} can be a side of |",
                    )
                raise CheckpointError(
                    f"{called} is not calibrated for {', '.join(classes) or 'no class'}: none was in its data",
                    hint="leave it out of what is joined by |, or train on data that has it",
                )


def _require_same_coordinates(models: Mapping[ModelName, Model]) -> None:
    """All of one shape, one device and data of one mean and deviation."""
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
                hint="models compose where their data have the same mean and deviation, as when they share a data set",
            )


def _alike(one: Statistics, other: Statistics) -> bool:
    tolerance = STATISTICS_TOLERANCE * max(one.std, other.std)
    apart = [abs(a - b) for a, b in zip((*one.mean, one.std), (*other.mean, other.std), strict=True)]
    return max(apart) <= tolerance


def _shown(statistics: Statistics) -> str:
    return f"{'/'.join(f'{mean:.3f}' for mean in statistics.mean)} ± {statistics.std:.3f}"
