"""Conditions by name."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
import pytest
import torch
from present import present

from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError
from vpfb_core.model.conditions import Condition, condition_tensor, require_one_each

GROUPS = (
    ConditionGroup("shape", ("circle", "square")),
    ConditionGroup("large", ("~large", "large")),
    ConditionGroup("colour", ("red", "blue")),
    ConditionGroup("border", ("none", "red")),
)


def rows(condition: Condition, n: int = 1, first: int = 0) -> list[list[int]]:
    return present(condition_tensor(condition, GROUPS, n, first)).tolist()


def test_a_name_sets_its_group_and_leaves_the_others_open() -> None:
    assert rows("square") == [[1, -1, -1, -1]]
    assert rows("circle, large,blue") == [[0, 1, 1, -1]]
    assert rows("~large") == [[-1, 0, -1, -1]]
    assert rows(None, 2) == [[-1] * 4] * 2


def test_a_class_name_of_several_groups_needs_its_group() -> None:
    assert rows("border=red") == [[-1, -1, -1, 1]]
    with pytest.raises(ConfigError, match="several groups") as error:
        rows("red")
    assert error.value.hint == "name the group: colour=red, border=red"


def test_several_names_alternate_wherever_a_part_begins() -> None:
    whole = rows(["circle", "square", "blue"], 5)
    assert [row[0] for row in whole] == [0, 1, -1, 0, 1]
    assert rows(["circle", "square", "blue"], 3, first=2) == whole[2:]


def test_given_data_have_one_condition_or_one_each() -> None:
    for fitting in (None, "circle", 1, ["circle"], ["circle", "square", "blue"], np.array(["circle"] * 3)):
        require_one_each(fitting, 3)
    for wrong in (["circle", "square"], ["circle"] * 4, [0, 1], np.array([0, 1])):
        with pytest.raises(ConfigError, match=f"{len(wrong)} conditions were given for 3 data"):
            require_one_each(wrong, 3)


def test_a_single_group_takes_indices_of_its_classes() -> None:
    one, number = GROUPS[:1], typing.cast(int, np.int64(0))
    assert present(condition_tensor(1, one, 2)).tolist() == [[1], [1]]
    assert present(condition_tensor([0, "square", number], one, 3)).tolist() == [[0], [1], [0]]
    for labels in (np.array([[1], [-1]]), np.array([1, -1]), torch.tensor([1, -1])):
        assert present(condition_tensor(labels, one, 2)).tolist() == [[1], [-1]]
    for label in (torch.tensor(1), [torch.tensor(1)], number + 1):
        assert present(condition_tensor(typing.cast(Any, label), one, 2)).tolist() == [[1], [1]]
    with pytest.raises(ConfigError, match=r"shape \(2,\)") as refused:
        condition_tensor(torch.tensor([1, 0]), one, 3)
    assert refused.value.hint == "expected integers of shape (3, 1) or (3,)"
    for wrong, words in (
        (2, "no class index 2"), (-1, "no class index -1"), (True, "type bool"), (1.0, "type float"),
        ([None], "type NoneType"), ([], "empty"), (np.array(1.0), "type ndarray"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            condition_tensor(typing.cast(Any, wrong), one, 1)
    with pytest.raises(ConfigError, match="class index 0 could be of shape, large, colour, border"):
        condition_tensor(0, GROUPS, 1)


def test_indices_pass_if_they_fit() -> None:
    indices = torch.tensor([[0, 1, -1, 1]])
    assert torch.equal(present(condition_tensor(indices, GROUPS, 1)), indices)
    for wrong in (
        torch.tensor([[2, 0, 0, 0]]),
        torch.tensor([[-2, 0, 0, 0]]),
        torch.tensor([[0, 0]]),
        indices.float(),
        indices.clamp(min=0).bool(),
        indices.to(torch.complex64),
        indices[0],
    ):
        with pytest.raises(ConfigError):
            condition_tensor(wrong, GROUPS, 1)


@pytest.mark.parametrize(("name", "words"), [("sqare", "square"), ("circle,square", "exclude"), ("", "unknown")])
def test_a_name_that_does_not_exist_or_fit_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        rows(name)
    assert words in f"{error.value.message} {error.value.hint}"


def test_without_groups_a_condition_is_refused() -> None:
    assert condition_tensor(None, (), 3) is None
    with pytest.raises(ConfigError, match="unconditional"):
        condition_tensor("circle", (), 3)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a=b", "a=b"), ("class=a=b", "a=b"), ("b", "b"), ("x,y", "x,y"), ("class=x,y", "x,y"),
        ("e\u0301", "\u00e9"), ("\u00e9", "\u00e9"), ("class=e\u0301", "\u00e9"), ("o\u0308", "o\u0308"),
        ("\u00f6", "o\u0308"), ("a\u00a0b", "a\u00a0b"), ("line\nbreak", "line\nbreak"), (" outer ", " outer "),
        ("caf\udce9", "caf\udce9"), ("می\u200cخواهم", "می\u200cخواهم"), ("=", "="), ("a=", "a="), (",", ","),
    ],
)  # fmt: skip
def test_a_class_is_selected_by_any_spelling_that_a_shell_can_type(typed: str, meant: str) -> None:
    classes = ("b", "a=b", "x,y", "\u00e9", "o\u0308", "a\u00a0b", "line\nbreak", " outer ", "caf\udce9",
               "می\u200cخواهم", "=", "a=", ",")  # fmt: skip
    assert condition_tensor(typed, (ConditionGroup("class", classes),), 1) == classes.index(meant)


def test_names_with_commas_and_equals_signs_are_joined_by_commas() -> None:
    groups = (ConditionGroup("size, rough", ("s", "xs, s")), ConditionGroup("a=b", ("~a=b", "a=b")))
    assert present(condition_tensor("xs, s, a=b", groups, 1)).tolist() == [[1, 1]]
    assert present(condition_tensor("a=b=~a=b,size, rough=s", groups, 1)).tolist() == [[0, 0]]


def test_of_two_classes_that_look_the_same_each_is_selected_by_its_own_spelling() -> None:
    groups = (ConditionGroup("class", ("\u00e9", "e\u0301")),)
    assert present(condition_tensor(["e\u0301", "\u00e9"], groups, 2)).tolist() == [[1], [0]]
