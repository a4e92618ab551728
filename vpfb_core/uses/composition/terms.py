"""What the names of an expression mean: which condition of which model."""

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

ModelName = str | None  # as an expression names it; None for the model that the expression is asked of


@dataclass(frozen=True)
class Term:
    """One density of one model.

    Attributes:
        model: whose.
        condition: class index in each of its groups, −1 for none; () for an unconditional model.
    """

    model: ModelName
    condition: tuple[int, ...]


def models_named(expression: Expression) -> tuple[ModelName, ...]:
    """The models that an expression needs, each once, from left to right; None for the one that it is asked of."""
    return tuple(dict.fromkeys(name.model for name in names_of(expression)))


def resolve(expression: Expression, models: Mapping[ModelName, TrainedModel]) -> tuple[Expression, dict[Name, Term]]:
    """An expression in which every ~ that can be is a name, and the term of every name in it.

    In a group of two classes, such as an attribute that is there or not, ~name is the other class. ~~ is nothing.

    Raises:
        ExpressionError: a name that does not exist, is in several groups, or is asked of an unconditional model.
    """
    simplified = _without_complements(expression, models)
    return simplified, {name: _term(name, models) for name in names_of(simplified)}


def _without_complements(expression: Expression, models: Mapping[ModelName, TrainedModel]) -> Expression:
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
    """The other class of a group of two; None in a larger group."""
    asked = [(group, index) for group, index in zip(groups, _condition(name, groups), strict=True) if index >= 0]
    if len(asked) != 1 or len(asked[0][0].classes) != 2:
        return None
    group, index = asked[0]
    return replace(name, name=f"{group.name}={group.classes[1 - index]}")


def _term(name: Name, models: Mapping[ModelName, TrainedModel]) -> Term:
    return Term(name.model, tuple(_condition(name, models[name.model].groups)))


def _condition(name: Name, groups: Sequence[ConditionGroup]) -> list[int]:
    """Class index in each group, −1 for none."""
    if not name.name:
        return [-1] * len(groups)
    if not groups:
        whole = "" if name.model is None else f"; {Name('', name.model)} is all that it draws"
        raise name.place.error(
            f"no class {name.name!r}: the model is unconditional", f"train one with vpfb train --conditional{whole}"
        )
    try:
        return parse_condition(name.name, groups)
    except ConfigError as error:
        raise name.place.error(error.message, error.hint) from error
