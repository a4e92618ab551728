"""The meaning of the names in an expression: a condition of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vpfb_core.errors import ConfigError
from vpfb_core.model.conditions import parse_condition
from vpfb_core.uses.composition.expression import And, Expression, Name, Not, Or, Weighted, names_of

if TYPE_CHECKING:
    from vpfb_core.data.source import ConditionGroup
    from vpfb_core.model.trained import TrainedModel

MOST_OTHERS = 9  # the most classes in the mixture of a ~

ModelName = str | None  # the name of a model in an expression; None for the default model


@dataclass(frozen=True)
class Term:
    """One density of one model.

    Attributes:
        model: the name of the model.
        condition: the class index in each of its groups, −1 for none; () for an unconditional model.
    """

    model: ModelName
    condition: tuple[int, ...]


def models_named(expression: Expression) -> tuple[ModelName, ...]:
    """The distinct models that an expression needs, from left to right; None for the default model."""
    return tuple(dict.fromkeys(name.model for name in names_of(expression)))


def resolve(expression: Expression, models: Mapping[ModelName, TrainedModel]) -> tuple[Expression, dict[Name, Term]]:
    """A simplified expression, and the term of every name in it.

    ~name is replaced by the other class of its group, such as the absence of an attribute, or by the mixture of the
    other classes, each as likely as the others: the density of what is not of the class, at every level. It stays a
    quotient if a model is not calibrated for all of them, which a mixture needs, or if there are more than
    `MOST_OTHERS`, each of which costs a gradient per evaluation. ~(a | b) is the same for several classes of a group,
    and ~~ is removed.

    Raises:
        ExpressionError: a name does not exist, is in several groups, or belongs to an unconditional model; or a ~
            leaves no class of a group.
    """
    simplified = _without_complements(expression, models)
    return simplified, {name: _term(name, models) for name in names_of(simplified)}


def _without_complements(expression: Expression, models: Mapping[ModelName, TrainedModel]) -> Expression:
    """The expression with ~ replaced by the other classes of the group."""
    match expression:
        case Not(Not(part)):
            return _without_complements(part, models)
        case Not(part) if (others := _other_classes(part, models)) is not None:
            return others
        case Not() | Weighted():
            return replace(expression, part=_without_complements(expression.part, models))
        case And() | Or():
            return replace(expression, parts=tuple(_without_complements(part, models) for part in expression.parts))
    return expression


def _other_classes(part: Expression, models: Mapping[ModelName, TrainedModel]) -> Expression | None:
    """What a class, or a mixture of classes of one group, leaves of its group; None where ~ stays a quotient."""
    names = [side for side in (part.parts if isinstance(part, Or) else (part,)) if isinstance(side, Name)]
    if names != list(names_of(part)):  # the part is neither a class nor a mixture of classes
        return None
    conditions = [_condition(name, models[name.model].groups) for name in names]
    asked = [[row for row, index in enumerate(condition) if index >= 0] for condition in conditions]
    if any(name.model != names[0].model or rows != asked[0] for name, rows in zip(names, asked, strict=True)):
        return None
    if len(asked[0]) != 1:  # classes of several groups, or all that a model draws
        return None
    model, (row,) = models[names[0].model], asked[0]
    group, taken = model.groups[row], {condition[row] for condition in conditions}
    others = [
        replace(names[0], name=f"{group.name}={name}") for index, name in enumerate(group.classes) if index not in taken
    ]
    if not others:
        raise names[0].position.error(
            f"~ of every class of the group {group.name!r} leaves nothing", "leave at least one class of the group out"
        )
    if len(others) == 1:
        return others[0]
    calibration = model.calibration
    if not 2 <= len(others) <= MOST_OTHERS or calibration is None:
        return None
    return Or(tuple(others)) if all(calibration.knows(_term(other, models).condition) for other in others) else None


def _term(name: Name, models: Mapping[ModelName, TrainedModel]) -> Term:
    return Term(name.model, tuple(_condition(name, models[name.model].groups)))


def _condition(name: Name, groups: Sequence[ConditionGroup]) -> list[int]:
    """The class index of a name in each group, −1 for none."""
    if not name.name:
        return [-1] * len(groups)
    if not groups:
        whole = "" if name.model is None else f", or write {Name('', name.model)} for the whole model"
        raise name.position.error(
            f"no class {name.name!r}: the model is unconditional", f"train a model with vpfb train --conditional{whole}"
        )
    try:
        return parse_condition(name.name, groups)
    except ConfigError as error:
        raise name.position.error(error.message, error.hint) from error
