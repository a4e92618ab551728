"""Inpainting on densities whose conditionals are known."""

from __future__ import annotations

import math

import pytest
import torch
from problems import STD, Mixture, correlated_gaussian, exact_field, scattered
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.uses.inpainting import inpaint


def field_of(mixture: Mixture) -> PotentialField:
    return exact_field(mixture, OT(0.005))


def conditional_on_a_grid(mixture: Mixture, given: float) -> tuple[Tensor, Tensor]:
    """(z₂, its probability given z₁) on a fine grid, from the joint density of a mixture in the plane."""
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    points = torch.stack([torch.full_like(grid, given), grid], 1)
    one, none = torch.tensor(1 / mixture.std), torch.tensor(0.0)
    probability = mixture.log_density(points, one, none).exp()
    return grid, probability / probability.sum()


def test_a_gaussian_is_filled_in_by_its_conditional() -> None:
    n, given, correlation = 500, 1.2, 0.8
    z = torch.tensor([given, 99.0], dtype=torch.float64).expand(n, 2)
    found = inpaint(field_of(correlated_gaussian(correlation)), z, torch.tensor([True, False]), seed=0, levels=25)
    assert (found.data[:, 0] == given).all()
    variance = 1 - correlation**2
    free = found.data[:, 1]
    assert abs(free.mean() - correlation * given) < 4 * math.sqrt(variance / n)
    assert abs(free.var() - variance) < 4 * variance * math.sqrt(2 / n)
    assert found.acceptance.min() > 0.4
    assert found.acceptance[3:10].max() < 0.75, "where the noise is wide; at the floor c = 20 is still a small step"


def test_two_answers_that_agree_on_what_is_known_are_given_in_their_proportions() -> None:
    means = torch.tensor([[0.6, 1.0], [0.6, -1.0], [-1.2, 0.0]])
    widths = torch.tensor([0.15, 0.15, 0.4], dtype=torch.float64)
    mixture = Mixture.standardised([2.0, 1.0, 1.5], means, widths[:, None, None] ** 2 * torch.eye(2))
    n, given = 500, float(mixture.means[0, 0] / mixture.std)
    grid, probability = conditional_on_a_grid(mixture, given)
    truth = float(probability[grid > 0].sum())
    assert truth == pytest.approx(2 / 3, abs=0.01)
    z = torch.tensor([given, 0.0], dtype=torch.float64).expand(n, 2)
    free = inpaint(field_of(mixture), z, torch.tensor([True, False]), seed=0, levels=25).data[:, 1]
    assert abs((free > 0).double().mean() - truth) < 4 * math.sqrt(truth * (1 - truth) / n)
    for side, there in [(grid > 0, free[free > 0]), (grid < 0, free[free < 0])]:
        share = probability[side] / probability[side].sum()
        mean = float((grid[side] * share).sum())
        variance = float(((grid[side] - mean) ** 2 * share).sum())
        assert abs(there.mean() - mean) < 4 * math.sqrt(variance / len(there))
        assert abs(there.var() - variance) < 4 * variance * math.sqrt(2 / len(there))


@pytest.mark.slow
def test_two_answers_that_differ_in_the_known_pixels_have_the_expected_bias() -> None:
    # The known value lies between two modes and nearer to one. Chains part before the noise has gone that hides which,
    # so the shares come out more equal than they are: about 0.60 instead of 0.67.
    means = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    mixture = Mixture.standardised([1.0, 1.0], means, 0.3**2 * torch.eye(2).expand(2, 2, 2))
    n, given = 400, 0.03
    grid, probability = conditional_on_a_grid(mixture, given)
    truth = float(probability[grid > 0].sum())
    assert truth == pytest.approx(2 / 3, abs=0.01)
    z = torch.tensor([given, 0.0], dtype=torch.float64).expand(n, 2)
    share = float((inpaint(field_of(mixture), z, torch.tensor([True, False]), seed=0).data[:, 1] > 0).double().mean())
    assert 0.5 < share < truth + 4 * math.sqrt(truth * (1 - truth) / n)
    assert abs(share - 0.6) < 4 * math.sqrt(truth * (1 - truth) / n)


def test_known_pixels_come_back_bit_for_bit_and_samples_do_not_depend_on_their_batch() -> None:
    mixture = scattered(4)
    z = (mixture.sample(3, torch.Generator().manual_seed(0)) / STD).reshape(3, 1, 2, 2)
    known = torch.tensor([[[True, False], [False, True]]])
    field = field_of(mixture)
    whole = inpaint(field, z, known, seed=2, levels=8)
    assert torch.equal(whole.data[:, known], z[:, known])
    assert (whole.data != z)[:, ~known].all()
    for i in range(3):
        alone = inpaint(field, z[i : i + 1], known, seed=2, first=i, levels=8)
        torch.testing.assert_close(alone.data[0], whole.data[i], rtol=0, atol=1e-7)


def test_every_level_is_reported() -> None:
    seen: list[int] = []
    z = torch.zeros(2, 2, dtype=torch.float64)
    found = inpaint(
        field_of(correlated_gaussian()), z, torch.tensor([True, False]), seed=0, levels=6, steps=20,
        on_level=seen.append,
    )  # fmt: skip
    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(found.acceptance) == len(found.energy) == 5, "no chain at the lowest level, below that of exact energies"
    assert found.nfe == 6 * 2 + 5 * (6 + 21)


def test_no_levels_are_refused() -> None:
    z = torch.zeros(1, 2)
    with pytest.raises(ConfigError, match="levels = 1"):
        inpaint(field_of(correlated_gaussian()), z, torch.tensor([True, False]), seed=0, levels=1)
