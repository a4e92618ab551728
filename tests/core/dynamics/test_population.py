"""Weighted populations: their effective size, and copies in proportion to their weights."""

from __future__ import annotations

import math

import pytest
import torch

from vpfb_core.dynamics.population import effective_sample_size, systematic


def test_the_effective_size_of_equal_weights_is_that_of_the_population_and_of_one_weight_is_one() -> None:
    assert float(effective_sample_size(torch.full((7,), -3.0))) == pytest.approx(7)
    assert float(effective_sample_size(torch.tensor([0.0, -1000.0, -1000.0]))) == pytest.approx(1)


def test_the_effective_size_of_weights_one_and_two_is_nine_fifths() -> None:
    weights = torch.tensor([math.log(1.0), math.log(2.0)]) + 500.0
    assert float(effective_sample_size(weights)) == pytest.approx(9 / 5)


@pytest.mark.parametrize("offset", [1e-9, 0.37, 1 - 1e-9])
def test_equal_weights_leave_the_population_as_it_is(offset: float) -> None:
    assert systematic(torch.zeros(50), offset).tolist() == list(range(50))


@pytest.mark.parametrize("offset", [0.001, 0.5, 0.999])
def test_every_member_is_copied_as_often_as_expected_rounded_up_or_down(offset: float) -> None:
    log_weights = 2 * torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 100 * torch.softmax(log_weights, 0)
    copies = systematic(log_weights, offset).bincount(minlength=100)
    assert bool(((copies >= expected.floor()) & (copies <= expected.ceil())).all())


def test_the_mean_number_of_copies_over_all_offsets_is_the_expected_one() -> None:
    log_weights = torch.tensor([0.1, -0.7, 1.3, 0.0], dtype=torch.float64)
    offsets = (torch.arange(1000) + 0.5) / 1000
    copies = torch.stack([systematic(log_weights, float(u)).bincount(minlength=4) for u in offsets]).double().mean(0)
    torch.testing.assert_close(copies, 4 * torch.softmax(log_weights, 0), atol=2e-3, rtol=0)


def test_a_member_without_weight_has_no_copies() -> None:
    assert systematic(torch.tensor([-math.inf, 0.0, -math.inf, 0.0]), 0.25).tolist() == [1, 1, 3, 3]
