"""Noise levels, ladders of them, and the walk down a ladder on flows that are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from vpfb_core.dynamics.ladder import LARGEST_RUNG, STEP_COST, Levels, descend
from vpfb_core.errors import ConfigError, SolverError

MATRIX = np.array([[-0.5, 3.0], [-2.0, 0.7]])


def position(level: float) -> float:
    """Of a level along the flows of this file, from 0 for pure noise to 1."""
    return 1 / (1 + level)


def linear(x: Tensor, s: float) -> Tensor:
    """dx/ds = 2 s A x, which carries x(s₀) to exp(A (s² − s₀²)) x(s₀)."""
    return 2 * s * x @ torch.from_numpy(MATRIX).T


def stay(x: Tensor, level: float, index: int) -> Tensor:
    return x


def normal(n: int = 16) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("highest", [math.inf, 1e4, 3.0])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_ladder_falls_evenly_in_the_logarithm_and_ends_at_the_lowest_level(highest: float, count: int) -> None:
    ladder = Levels(highest, 0.002).ladder(count)
    assert ladder == pytest.approx(np.geomspace(min(highest, LARGEST_RUNG), 0.002, count), rel=1e-12)
    assert ladder[-1] == 0.002, "to the last bit: below it a field has learned nothing"


def test_a_ladder_begins_where_three_parts_in_ten_thousand_of_the_variance_are_data() -> None:
    first = Levels(math.inf, 0.1).ladder(2)[0]
    assert 1 / (1 + first**2) == pytest.approx(3.35e-4, rel=0.01)


@pytest.mark.parametrize("count", [1, 0, -3])
def test_a_ladder_has_two_levels_at_least(count: int) -> None:
    with pytest.raises(ConfigError, match=f"levels = {count}"):
        Levels(math.inf, 0.1).ladder(count)


@pytest.mark.parametrize("level", [0.1, 0.1 * (1 - 1e-13), 0.2, 30.0])
def test_levels_from_the_lowest_on_are_granted(level: float) -> None:
    assert Levels(math.inf, 0.1).require(level) == level


@pytest.mark.parametrize("level", [0.099, 0.0, -1.0, math.nan, math.inf])
def test_other_levels_are_refused_with_the_lowest_one(level: float) -> None:
    with pytest.raises(ConfigError, match=f"level {level} .*at or above 0.1") as caught:
        Levels(math.inf, 0.1).require(level)
    assert "ratio of noise to data" in str(caught.value.hint)


def test_levels_above_the_highest_are_refused_where_there_is_one() -> None:
    assert Levels(2.0, 0.1).require(2.0) == 2.0
    with pytest.raises(ConfigError, match=r"level 3\.0 is not between 0\.1 and 2, the noise levels"):
        Levels(2.0, 0.1).require(3.0)


# --- the walk ---------------------------------------------------------------------------------------------------------


def test_a_walk_down_the_ladder_is_of_second_order_in_the_number_of_levels() -> None:
    levels, x = Levels(2.0, 0.05), normal()
    start, end = position(levels.highest), position(levels.lowest)
    exact = x.numpy() @ expm(MATRIX * (end**2 - start**2)).T
    counts = np.array([20, 40, 80, 160])
    errors = [
        np.abs(descend(linear, x, start, levels.ladder(count), position, stay).numpy() - exact).max()
        for count in counts
    ]
    slope, _ = np.polyfit(np.log(1 / (counts - 1)), np.log(errors), 1)
    assert slope == pytest.approx(2, abs=0.1)
    assert errors[-1] < 1e-3


def test_one_step_leads_from_the_prior_to_the_first_level() -> None:
    """Heun's step is exact where the velocity is a constant, and half a step ahead where it is s."""
    levels, x = Levels(math.inf, 0.1), normal()
    shift = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = descend(lambda x, s: shift.expand_as(x), x, 0.0, levels.ladder(3), position, stay)
    torch.testing.assert_close(found, x + position(0.1) * shift)
    found = descend(lambda x, s: s * shift.expand_as(x), x, 0.0, levels.ladder(3), position, stay)
    torch.testing.assert_close(found, x + 0.5 * position(0.1) ** 2 * shift)


def test_each_level_costs_two_evaluations_and_the_level_of_the_prior_none() -> None:
    asked: list[float] = []

    def velocity(x: Tensor, s: float) -> Tensor:
        asked.append(s)
        return torch.zeros_like(x)

    ladder = [2.0, 1.0, 0.5]
    descend(velocity, normal(), 0.0, ladder, position, stay)
    assert asked == [0.0, *(position(level) for level in (2.0, 2.0, 1.0, 1.0, 0.5))]
    assert len(asked) == STEP_COST * len(ladder)
    asked.clear()
    descend(velocity, normal(), position(2.0), ladder, position, stay)
    assert len(asked) == STEP_COST * (len(ladder) - 1)


def test_the_next_step_starts_from_the_settled_points() -> None:
    seen: list[tuple[float, int]] = []

    def settle(x: Tensor, level: float, index: int) -> Tensor:
        seen.append((level, index))
        return 10 * x + index

    x = normal()
    found = descend(lambda x, s: torch.zeros_like(x), x, 0.0, [2.0, 1.0, 0.5], position, settle)
    assert seen == [(2.0, 0), (1.0, 1), (0.5, 2)]
    torch.testing.assert_close(found, 1000 * x + 12)


def test_images_walk_like_the_vectors_they_flatten_to_and_keep_no_graph() -> None:
    x, ladder = normal().requires_grad_(), Levels(2.0, 0.05).ladder(5)
    images = descend(
        lambda x, s: linear(x.flatten(1), s).reshape(x.shape), x.reshape(-1, 1, 2, 1), 0.0, ladder, position, stay
    )
    torch.testing.assert_close(images.flatten(1), descend(linear, x, 0.0, ladder, position, stay))
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert not descend(lambda x, s: weight * x, x.detach(), 0.0, ladder, position, stay).requires_grad


def test_points_that_leave_the_finite_numbers_are_an_error_that_names_the_level() -> None:
    def velocity(x: Tensor, s: float) -> Tensor:
        return torch.where(x > 0, math.inf if s > 0.5 else 0.0, 0.0)

    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [-1.0, 2.0]])
    with pytest.raises(SolverError, match=r"2 of 3 samples .*level 0\.5"):
        descend(velocity, x, 0.0, [2.0, 1.0, 0.5, 0.1], position, stay)


def test_a_ladder_that_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="too many"):
        Levels(math.inf, 0.1).ladder(2**63)
