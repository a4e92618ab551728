"""The language of composition: what it means, how it is written back, and where mistakes are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpfb_core.errors import ConfigError
from vpfb_core.uses.composition.expression import (
    DEEPEST,
    LONGEST,
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

a, b, c = Name("a"), Name("b"), Name("c")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a", a),
        ("  a\t& b\n", And((a, b))),
        ("a | b & c", Or((a, And((b, c))))),
        ("(a | b) & c", And((Or((a, b)), c))),
        ("~a & b", And((Not(a), b))),
        ("~(a & b)", Not(And((a, b)))),
        ("~~a", Not(Not(a))),
        ("2*~a & b", And((Weighted(2.0, Not(a)), b))),
        ("1.5*a|.5*b", Or((Weighted(1.5, a), Weighted(0.5, b)))),
        ("1e-1*(a | b)", Weighted(0.1, Or((a, b)))),
        ("a & b & c", And((a, b, c))),
        ("(a & b) & c", And((And((a, b)), c))),
        ("3 & 8", And((Name("3"), Name("8")))),
        ("2*3", Weighted(2.0, Name("3"))),
        ("colour=red", Name("colour=red")),
        ("T-shirt/top | 5_o_Clock_Shadow", Or((Name("T-shirt/top"), Name("5_o_Clock_Shadow")))),
        ("'Ankle boot' & 'it''s & that'", And((Name("Ankle boot"), Name("it's & that")))),
        ("runs/001-faces:smiling", Name("smiling", "runs/001-faces")),
        ("'my runs/a, b':'Ankle boot'", Name("Ankle boot", "my runs/a, b")),
        ("runs/a: & ~runs/b:", And((Name("", "runs/a"), Not(Name("", "runs/b"))))),
        ("4*circle,red & size=large", And((Weighted(4.0, Name("circle,red")), Name("size=large")))),
        ("rouge & ½größe", And((Name("rouge"), Name("½größe")))),
    ],
)
def test_an_expression_is_this_tree_and_reads_back_as_it(text: str, tree: Expression) -> None:
    assert parse(text) == tree
    assert parse(str(tree)) == tree


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ("", 0, "a name"),
        ("a &", 3, "the end"),
        ("a & & b", 4, "'&'"),
        ("a b", 2, "& or |"),
        ("a and b", 2, "'and'"),
        ("(a | b", 6, "character 1 is not closed"),
        ("a)", 1, "')'"),
        ("a & 'b c", 4, "quote"),
        ("a, b", 1, "','"),
        ("a,", 1, "','"),
        ("1,5*a", 0, "'1,5' is not a weight"),
        ("x*a", 0, "'x' is not a weight"),
        ("-1*a", 0, "'-1' is not a weight"),
        ("a & 0*b", 4, "out of range"),
        ("1e300*a", 0, "out of range"),
        ("~2*a", 1, "the weight goes first"),
        ("a*2", 0, "'a' is not a weight"),
        ("2*3*a", 3, "& or |"),
        ("inf*a", 0, "'inf' is not a weight"),
        ("''", 0, "empty name"),
        (":a", 0, "':'"),
        ("a:b:c", 3, "& or |"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, position: int, word: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text)
    error = raised.value
    assert isinstance(error, ConfigError)
    assert error.position == position
    assert word in f"{error.message} {error.hint}"
    assert f"^{text[position:]}" in error.message, "one line points too"
    _, shown, pointer = str(error).split("\n")
    assert shown[pointer.index("^") :] == text[position:]


def test_the_place_of_a_mistake_in_a_long_text_is_shown_with_what_is_around_it() -> None:
    with pytest.raises(ExpressionError) as raised:
        parse("one & " * 40 + "two two" + " & six" * 40)
    _, shown, pointer = str(raised.value).split("\n")
    assert len(shown) < 80
    assert shown[pointer.index("^") - 4 :].startswith("two two")


@pytest.mark.parametrize("text", ["a" * (LONGEST + 1), "~" * 900 + "a", "(" * 400 + "a" + ")" * 400, "(" * 999])
def test_no_input_is_too_deep_or_too_long_to_be_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


def test_what_is_just_deep_and_long_enough_is_read() -> None:
    depth = DEEPEST - 1
    assert parse("(" * depth + "a" + ")" * depth) == a
    chain = "a&" * (LONGEST // 2 - 1) + "a"
    assert len(list(names_of(parse(chain)))) == LONGEST // 2


_words = st.text(min_size=1, max_size=8)
_trees: st.SearchStrategy[Expression] = st.recursive(
    st.builds(Name, _words, st.none() | _words) | st.builds(Name, st.just(""), _words),
    lambda parts: (
        st.builds(Not, parts)
        | st.builds(Weighted, st.floats(1e-3, 100), parts)
        | st.builds(And, st.lists(parts, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(parts, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


@given(_trees)
@settings(max_examples=300, deadline=None)
def test_every_tree_can_be_written_down(tree: Expression) -> None:
    text = str(tree)
    if len(text) <= LONGEST:
        assert parse(text) == tree
