"""Neighbourhoods in each region of a picture: against scikit-learn, for members and others, and wherever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from vpfb_core.errors import CheckpointError
from vpfb_core.model.neighbourhood import NEIGHBOURS
from vpfb_core.model.regions import Regions


def pictures(n: int, regions: int = 16, features: int = 6, seed: int = 0) -> Tensor:
    """Descriptors of n pictures at the regions of a grid, with another scale at each."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, regions, features, generator=random) * torch.linspace(0.5, 2, regions)[:, None]


def nobody(n: int) -> Tensor:
    return torch.full((n,), -1)


def test_with_all_axes_the_distances_in_a_region_are_those_of_scikit_learn() -> None:
    known, new = pictures(300, regions=1), pictures(20, regions=1, seed=1)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(known[:, 0].numpy())
    members, others = (
        nearest.kneighbors(each)[0].mean(1) for each in (None, new[:, 0].numpy())
    )  # None: without itself
    usual, unit = members.mean(), members.std() + 0.01
    regions = Regions.of(known)
    found = regions.neighbours(new, nobody(20))
    np.testing.assert_allclose(found.statistic, (others - usual) / unit, atol=0.02)
    np.testing.assert_allclose(regions.values, (members - usual) / unit, atol=0.02)
    assert found.nearest.shape == (20, 0)


def test_a_square_that_is_unusual_is_found_wherever_it_is() -> None:
    regions, new = Regions.of(pictures(400)), pictures(30, seed=1)
    usual = regions.neighbours(new, nobody(30)).statistic
    grid = torch.arange(16).view(4, 4)
    for row in range(2):
        for column in range(2):
            changed = new.clone()
            changed[:, grid[row : row + 3, column : column + 3].flatten()] *= 3
            found = regions.neighbours(changed, nobody(30)).statistic
            assert (found > usual + 1).all()
            assert ((-regions.null.surprise(found)).exp() < 0.01).all()


def test_a_region_that_most_pictures_leave_blank_does_not_decide() -> None:
    known = pictures(400)
    known[40:, 0] = 0
    regions, new = Regions.of(known), pictures(30, seed=1)
    blank = new.clone()
    blank[:, 0] = 0
    usual = regions.neighbours(blank, nobody(30)).statistic
    assert (regions.neighbours(new, nobody(30)).statistic < usual + 2).all()


def test_a_member_is_left_out_of_its_own_neighbours() -> None:
    known = pictures(100)
    regions = Regions.of(known)
    assert len(regions) == 100
    found = regions.neighbours(known[:50], torch.arange(50)).statistic
    torch.testing.assert_close(found, regions.values[:50], rtol=1e-4, atol=1e-3)
    assert (regions.neighbours(known[:50], nobody(50)).statistic < found).all()


def test_p_values_of_new_pictures_are_nearly_uniform() -> None:
    regions = Regions.of(pictures(1000))
    found = (-regions.null.surprise(regions.neighbours(pictures(2000, seed=1), nobody(2000)).statistic)).exp()
    for share in (0.5, 0.2, 0.05):
        assert float((found <= share).double().mean()) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("count", "regions"), [(2, 1), (3, 4), (40, 9)])
def test_few_pictures_equal_ones_and_small_grids_have_a_finite_statistic(count: int, regions: int) -> None:
    for known in (pictures(count, regions), pictures(1, regions).expand(count, -1, -1)):
        found = Regions.of(known)
        assert found.values.isfinite().all()
        assert found.neighbours(pictures(4, regions, seed=1), nobody(4)).statistic.isfinite().all()


def test_descriptors_of_another_grid_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="descriptors of shape"):
        Regions.of(pictures(20)).neighbours(pictures(3, regions=4), nobody(3))
