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

    In a group of two classes, such as the presence of an attribute, ~name is replaced by the other class. ~~ is
    removed.

    Raises:
        ExpressionError: a name does not exist, is in several groups, or belongs to an unconditional model.
    """
    simplified = _without_complements(expression, models)
    return simplified, {name: _term(name, models) for name in names_of(simplified)}


def _without_complements(expression: Expression, models: Mapping[ModelName, TrainedModel]) -> Expression:
    """The expression with ~ replaced by the other class wherever a group has two."""
    match expression:
        case Not(Not(part)):
            return _without_complements(part, models)
        case Not(Name() as name) if (other := _other_class(name, models[name.model].groups)) is not None:
            return other
        case Not() | Weighted():
            return replace(expression, part=_without_complements(expression.part, models))
        case And() | Or():
            return replace(expression, parts=tuple(_without_complements(part, models) for part in expression.parts))
    return expression


def _other_class(name: Name, groups: Sequence[ConditionGroup]) -> Name | None:
    """The other class of a group of two classes; None in a larger group."""
    asked = [(group, index) for group, index in zip(groups, _condition(name, groups), strict=True) if index >= 0]
    if len(asked) != 1 or len(asked[0][0].classes) != 2:
        return None
    group, index = asked[0]
    return replace(name, name=f"{group.name}={group.classes[1 - index]}")


def _term(name: Name, models: Mapping[ModelName, TrainedModel]) -> Term:
    return Term(name.model, tuple(_condition(name, models[name.model].groups)))


def _condition(name: Name, groups: Sequence[ConditionGroup]) -> list[int]:
    """The class index of a name in each group, −1 for none."""
    if not name.name:
        return [-1] * len(groups)
    if not groups:
        whole = "" if name.model is None else f", or write {Name('', name.model)} for the whole model"
        raise name.place.error(
            f"no class {name.name!r}: the model is unconditional", f"train a model with vpfb train --conditional{whole}"
        )
    try:
        return parse_condition(name.name, groups)
    except ConfigError as error:
        raise name.place.error(error.message, error.hint) from error
