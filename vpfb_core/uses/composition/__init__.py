"""Composition of classes of one or several models by "and", "or" and "not", and samples of the composed density.

expression = composition.parse("circle & red & ~large")
drawn = composition.sample(composition.Composition(expression, model), 16, seed=0)
drawn.images
"""

from vpfb_core.uses.composition.energy import Composition
from vpfb_core.uses.composition.expression import (
    And,
    Expression,
    ExpressionError,
    Name,
    Not,
    Or,
    Weighted,
    names_of,
    parse,
)
from vpfb_core.uses.composition.sampling import Composed, compose, sample
from vpfb_core.uses.composition.terms import models_named

__all__ = [
    "And",
    "Composed",
    "Composition",
    "Expression",
    "ExpressionError",
    "Name",
    "Not",
    "Or",
    "Weighted",
    "compose",
    "models_named",
    "names_of",
    "parse",
    "sample",
]
