"""What the messages of errors share."""

from __future__ import annotations

import pickle

import pytest

from vpfb_core.errors import ConfigError, FeatureError, VPFBError, counted, singular
from vpfb_core.uses.composition.expression import ExpressionError


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (1, "images", "1 image"), (0, "images", "0 images"), (1000, "images", "1,000 images"),
        (1, "grey images", "1 grey image"), (1, "classes", "1 class"), (2, "classes", "2 classes"),
        (1, "exact copies", "1 exact copy"), (1, "data", "1 datum"), (1, "processes", "1 process"),
    ],
)  # fmt: skip
def test_a_noun_agrees_with_its_number(count: int, noun: str, words: str) -> None:
    assert counted(count, noun) == words


def test_the_singular_of_the_nouns_of_data() -> None:
    assert [singular(noun) for noun in ("images", "rows")] == ["image", "row"]


@pytest.mark.parametrize(
    "error",
    [ConfigError("no", hint="yes"), FeatureError("inception", 3), ExpressionError("no", "a +", 3, hint="yes")],
)
def test_an_error_reaches_another_process_as_it_is(error: VPFBError) -> None:
    # Jobs of several processes send the error of the first one to the others.
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
