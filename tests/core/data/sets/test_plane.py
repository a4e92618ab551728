"""The points of the plane sets have the densities that benchmarks compare with."""

from __future__ import annotations

import plane_densities
import pytest
import torch
from plane_densities import LOG_DENSITIES, fresh

from vpfb_core import data
from vpfb_core.errors import DataError


@pytest.mark.parametrize("name", sorted(set(LOG_DENSITIES) - {"checkerboard"}))
def test_the_points_have_the_density_in_closed_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane_densities, "NODES", 800)  # still much closer together than the noise is wide
    points = fresh(name, 5_000)
    low, high = points.amin(0) - 1, points.amax(0) + 1
    cells = 100
    axes = [low[i] + (high[i] - low[i]) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells for i in range(2)]
    grid = torch.cartesian_prod(*axes)
    logs = LOG_DENSITIES[name](grid)
    mass = logs.exp() * (high - low).prod() / cells**2
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    mean = mass @ grid
    assert ((points.mean(0) - mean).abs() < 4 * points.std(0) / len(points) ** 0.5).all()
    assert float(LOG_DENSITIES[name](points).mean()) == pytest.approx(float(mass @ logs), abs=0.05)


def test_rows_are_numbered_from_one_as_those_of_a_file() -> None:
    assert data.load("moons", limit=3).files == ("1", "2", "3")
    assert data.load("moons").subset(torch.tensor([4, 0])).files == ("5", "1")


def test_columns_can_be_chosen_and_others_are_refused() -> None:
    both = data.load("rings").data
    assert torch.equal(data.load("rings", columns=["y"]).data, both[:, 1:])
    with pytest.raises(DataError, match="no column 'z'"):
        data.load("rings", columns=["z"])
