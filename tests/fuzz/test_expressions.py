"""Expressions that nobody would type: a tree, or an error that points at the place."""

from __future__ import annotations

from typing import Any

import pytest
from exploring import bounded, budget, explore
from hypothesis import strategies as st

from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError
from vpfb_core.uses.composition.expression import LONGEST, ExpressionError, Name, names_of, parse
from vpfb_core.uses.composition.terms import resolve

_PIECES = st.sampled_from([*"&|~*():',", "red", "circle", "a:b", "model:", "1.5", "1e999", "0", "-2", "nan", "''", " "])
TEXTS = (
    st.text(max_size=60) | st.lists(_PIECES, max_size=60).map("".join) | st.lists(_PIECES, max_size=30).map(" ".join)
)


class Classes:
    """A model, as far as names go."""

    groups = (ConditionGroup("colour", ("red", "blue")), ConditionGroup("shape", ("circle", "square", "star")))


@budget(300, 50_000)
def test_any_text_is_a_tree_that_reads_back_or_an_error_in_it(examples: int) -> None:
    def check(text: str) -> None:
        try:
            tree = parse(text)
        except ExpressionError as error:
            assert 0 <= error.position <= len(text)
            assert "\n" not in error.message
            return
        assert parse(str(tree)) == tree

    explore(TEXTS, check, examples)


@budget(100, 20_000)
def test_any_tree_has_terms_or_names_what_it_lacks(examples: int) -> None:
    def check(text: str) -> None:
        try:
            tree = parse(text)
        except ExpressionError:
            return
        models: dict[str | None, Any] = {name.model: Classes for name in names_of(tree)}
        try:
            _, terms = resolve(tree, models)
        except ConfigError:
            return
        assert all(isinstance(name, Name) for name in terms)

    explore(TEXTS, check, examples)


@pytest.mark.parametrize("piece", ["(", "~", "((~", "a&(", "2*(", "a|b&(", "'' ", "*", "1*", ":", "a:"])
def test_nothing_is_nested_or_long_enough_to_take_long(piece: str) -> None:
    for count in (LONGEST // len(piece), 1_000_000):
        with bounded(mebibytes=64, seconds=1), pytest.raises(ExpressionError):
            parse(piece * count)


@pytest.mark.parametrize("weight", ["1e400", "9" * 900, "0." + "0" * 900 + "1", "1e-400", "inf", "nan", "0x10", "١٢"])
def test_a_weight_that_is_no_ordinary_number_is_refused(weight: str) -> None:
    with pytest.raises(ExpressionError):
        parse(f"{weight}*red")
