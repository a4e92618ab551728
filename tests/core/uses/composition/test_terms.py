"""What names mean: classes of one model or several."""

from __future__ import annotations

import pytest
from composed_models import exact_model, gaussian

from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.uses.composition import Composition, parse
from vpfb_core.uses.composition.expression import And, ExpressionError, Name, Not, Or, Weighted
from vpfb_core.uses.composition.terms import MOST_OTHERS, Term, models_named, resolve

GROUPS = (
    ConditionGroup("shape", ("circle", "square", "blob")),
    ConditionGroup("Smiling", ("~Smiling", "Smiling")),
    ConditionGroup("size", ("small", "large", "red")),
    ConditionGroup("colour", ("red", "blue")),
)
NONE = (-1, -1, -1, -1)


def make(groups: tuple[ConditionGroup, ...] = GROUPS) -> Model:
    empty = (-1,) * len(groups)
    return exact_model({empty: gaussian([0.0], [1.0])}, groups)


def condition(text: str) -> tuple[int, ...]:
    expression, terms = resolve(parse(text), {None: make()})
    assert isinstance(expression, Name)
    return terms[expression].condition


def test_a_name_is_a_class_of_its_group() -> None:
    assert condition("square") == (1, -1, -1, -1)
    assert condition("colour=red") == (-1, -1, -1, 0)
    assert condition("'~Smiling'") == (-1, 0, -1, -1)


def test_names_joined_by_commas_are_one_condition() -> None:
    assert condition("square,blue") == (1, -1, -1, 1)
    assert condition("colour=red,Smiling,circle") == (0, 1, -1, 0)
    expression, _ = resolve(parse("~Smiling,blue"), {None: make()})
    assert expression == Not(Name("Smiling,blue")), "not the other class of each"


def test_a_comma_may_be_part_of_a_class() -> None:
    model = make((ConditionGroup("scene", ("sea, sand", "wood")), GROUPS[0]))
    _, terms = resolve(parse("'sea, sand' & 'scene=sea, sand' & wood,circle"), {None: model})
    assert [term.condition for term in terms.values()] == [(0, -1), (0, -1), (1, 0)]


def test_not_in_a_group_of_two_is_the_other_class() -> None:
    assert condition("~Smiling") == (-1, 0, -1, -1)
    assert condition("~'~Smiling'") == (-1, 1, -1, -1)
    assert condition("~blue") == (-1, -1, -1, 0)
    assert condition("~~Smiling") == (-1, 1, -1, -1)


def test_not_in_a_larger_group_is_a_mixture_of_the_other_classes() -> None:
    shapes = [(0, -1, -1, -1), (1, -1, -1, -1), (2, -1, -1, -1)]
    density = gaussian([0.0], [1.0])
    model = exact_model(dict.fromkeys([NONE, *shapes], density), GROUPS)
    others = Or((Name("shape=square"), Name("shape=blob")))
    for text, left in {
        "~circle": others,
        "~shape=circle": others,
        "2*~circle": Weighted(2, others),
        "~~circle": Name("circle"),
        "~(circle | square)": Name("shape=blob"),
        "~(circle | Smiling)": Not(Or((Name("circle"), Name("Smiling")))),
        "~(circle & square)": Not(And((Name("circle"), Name("square")))),
        "~(circle | 2*square)": Not(Or((Name("circle"), Weighted(2, Name("square"))))),
    }.items():
        assert resolve(parse(text), {None: model})[0] == left, text


def test_not_is_a_quotient_where_a_mixture_is_not_calibrated_or_too_large() -> None:
    expression, _ = resolve(parse("~circle & ~~square"), {None: make()})
    assert expression == And((Not(Name("circle")), Name("square")))
    for count in (MOST_OTHERS + 1, MOST_OTHERS + 2):
        group = ConditionGroup("kind", tuple(f"k{i}" for i in range(count)))
        model = exact_model({(i,): gaussian([0.0], [1.0]) for i in range(-1, count)}, (group,))
        expression, _ = resolve(parse("~k0"), {None: model})
        assert isinstance(expression, Or if count == MOST_OTHERS + 1 else Not)


def test_the_models_of_an_expression_are_named_once() -> None:
    assert models_named(parse("a & x:b | y:c & ~x:d")) == (None, "x", "y")


def test_a_class_of_another_model_is_its_term_and_so_is_all_that_it_draws() -> None:
    models = {None: make(), "x": make(), "y": make(())}
    _, terms = resolve(parse("circle & x:square & x: & y:"), models)
    assert set(terms.values()) == {
        Term(None, (0, -1, -1, -1)), Term("x", (1, -1, -1, -1)), Term("x", NONE), Term("y", ())
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("circle & sqare", 9, ["unknown class 'sqare'", "did you mean 'square'?", "circle, square, blob"]),
        ("circle & red", 9, ["in several groups", "size=red, colour=red"]),
        ("circle | x:dog", 11, ["unconditional", "x: for the whole model"]),
        ("~dog", 1, ["unknown class 'dog'"]),
        ("blob & circle,dog", 7, ["unknown class 'dog'"]),
        ("circle,square", 0, ["exclude each other"]),
        ("blob & ~(circle | square | blob)", 9, ["every class of the group 'shape'", "leave at least one class"]),
    ],
)
def test_a_name_that_does_not_exist_is_pointed_at(text: str, position: int, words: list[str]) -> None:
    with pytest.raises(ExpressionError) as raised:
        Composition(text, {None: make(), "x": make(())})
    assert raised.value.position == position
    for word in words:
        assert word in f"{raised.value.message} {raised.value.hint}"


def test_a_tree_that_was_never_text_has_plain_errors() -> None:
    with pytest.raises(ConfigError, match=r"unknown class 'dog'$"):
        Composition(Name("dog"), make())
    with pytest.raises(ConfigError, match="needs the model x"):
        Composition("x:dog", make())


def test_models_of_other_shapes_or_data_do_not_compose() -> None:
    wide = exact_model({NONE: gaussian([0.0, 0.0], [1.0, 1.0])}, GROUPS)
    with pytest.raises(ConfigError, match=r"their images are \(1, 1, 1\) and \(1, 1, 2\)"):
        Composition("circle & x:square", {None: make(), "x": wide})
    bright, same = make(), make()
    bright.statistics = ImageStatistics((0.55,), 0.05)
    same.statistics = ImageStatistics((0.5005,), 0.0505)
    with pytest.raises(ConfigError, match=r"mean 0.500 \(std 0.050\) and 0.550 \(std 0.050\)"):
        Composition("circle & x:square", {None: make(), "x": bright})
    Composition("circle & x:square", {None: make(), "x": same})


def test_or_needs_calibrated_models_and_the_rest_does_not() -> None:
    model = make()
    with pytest.raises(CheckpointError, match="not calibrated for circle"):
        Composition("(circle | blob) & square", model)
    model.calibration = None
    Composition("circle & ~blob", model)
    with pytest.raises(CheckpointError, match="the model is not calibrated, which") as raised:
        Composition("circle | blob", model)
    assert raised.value.hint == "vpfb info --calibrate MODEL"


@pytest.mark.parametrize("text", ["~x:", "x: & 2*~y:", "x: | ~y:"])
def test_without_a_density_without_condition_not_alone_is_no_density(text: str) -> None:
    with pytest.raises(ConfigError, match="not a density"):
        Composition(text, {"x": make(()), "y": make(())})
