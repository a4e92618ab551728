"""Ladders of noise levels, and the walk down one on flows that are known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from vpfb_core.dynamics.ladder import Levels, descend
from vpfb_core.errors import ConfigError, SolverError


def stay(x: Tensor, level: float, index: int) -> Tensor:
    return x


# --- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("highest", [math.inf, 10.0])
def test_a_ladder_is_even_in_the_logarithm_of_the_level_and_ends_at_the_lowest(highest: float) -> None:
    ladder = Levels(highest, 0.07).ladder(20)
    assert len(ladder) == 20
    assert ladder[0] == pytest.approx(min(highest, math.exp(4)))
    assert ladder[-1] == 0.07
    steps = [math.log(above / below) for above, below in pairwise(ladder)]
    assert steps == pytest.approx([math.log(ladder[0] / 0.07) / 19] * 19)


@pytest.mark.parametrize("count", [1, 0])
def test_a_ladder_of_less_than_two_levels_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"levels = {count}"):
        Levels(math.inf, 0.1).ladder(count)


def test_a_level_is_between_the_lowest_and_infinity() -> None:
    levels = Levels(math.inf, 0.1)
    assert (levels.require(0.1), levels.require(50.0)) == (0.1, 50.0)
    for wrong in (0.09, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"level {wrong}"):
            levels.require(wrong)


# --- the walk ---------------------------------------------------------------------------------------------------------


def test_the_way_down_is_of_second_order() -> None:
    """dx/ds = x cos s, whose solution is x(0) exp(sin s); the position of a level is 1 − level."""
    start, counts = torch.tensor([[0.5], [-2.0]], dtype=torch.float64), np.array([20, 40, 80])

    def error(count: int) -> float:
        ladder = [1 - (i + 1) / count for i in range(count)]
        x = descend(lambda x, s: x * math.cos(s), start, 0.0, ladder, lambda level: 1 - level, stay)
        return float((x - start * math.exp(math.sin(1))).abs().max())

    slope, _ = np.polyfit(np.log(1 / counts), np.log([error(count) for count in counts]), 1)
    assert slope == pytest.approx(2, abs=0.1)


def test_each_level_is_settled_once_after_the_step_to_it_and_the_start_takes_no_step() -> None:
    asked: list[float] = []
    settled: list[tuple[float, int, float]] = []

    def velocity(x: Tensor, s: float) -> Tensor:
        asked.append(s)
        return torch.ones_like(x)

    def settle(x: Tensor, level: float, index: int) -> Tensor:
        settled.append((level, index, float(x)))
        return x + 10

    x = descend(velocity, torch.zeros(1, 1), 0.0, [4.0, 3.0, 1.0], lambda level: 4 - level, settle)
    assert settled == [(4.0, 0, 0.0), (3.0, 1, 11.0), (1.0, 2, 23.0)]
    assert float(x) == 33
    assert asked == [0.0, 1.0, 1.0, 3.0]


def test_a_walk_keeps_no_graph() -> None:
    weight = torch.ones(1, requires_grad=True)
    x = descend(lambda x, s: weight * x, torch.ones(2, 1), 0.0, [0.5], lambda level: 1 - level, stay)
    assert not x.requires_grad


def test_a_point_that_leaves_the_finite_numbers_is_an_error_that_says_where() -> None:
    def velocity(x: Tensor, s: float) -> Tensor:
        return torch.where(x > 1, math.inf, 0.0)

    with pytest.raises(SolverError, match=r"1 of 2 samples .* noise level 0\.5"):
        descend(velocity, torch.tensor([[0.0], [2.0]]), 0.0, [1.0, 0.5, 0.1], lambda level: 1 - level, stay)
