"""Pictures of the plane: what lies low and left is drawn low and left, and all points are inside."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpfb_core.uses.plotting import two_columns
from vpfb_core.uses.plotting.pairs import MOST_COLUMNS, pairs
from vpfb_core.uses.plotting.two_columns import Scene, Window, landscape, plane

SIDE = 40


def test_the_window_contains_all_points_with_a_margin() -> None:
    points = np.array([[0.0, 10.0], [2.0, 30.0]])
    window = Window.of(points)
    assert window.x[0] < 0 < 2 < window.x[1]
    assert window.y[0] < 10 < 30 < window.y[1]
    grid = window.grid(5)
    assert grid[0].tolist() == [window.x[0], window.y[0]]
    assert grid[1].tolist() == [window.x[0] + (window.x[1] - window.x[0]) / 4, window.y[0]], "x varies first"
    assert grid[-1].tolist() == [window.x[1], window.y[1]]


def test_the_window_fits_the_points_in_any_unit() -> None:
    points = np.array([[4.0e-7, 5.0], [6.0e-7, 5.0]])
    window = Window.of(points)
    assert window.x == pytest.approx((3.7e-7, 6.3e-7))
    assert window.y[0] < 5 < window.y[1]


@pytest.mark.parametrize("centre", [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0)])
def test_the_highest_density_of_a_frame_is_where_it_belongs(centre: tuple[float, float]) -> None:
    window = Window((-2, 2), (-2, 2))
    log_density = -2 * np.square(window.grid(SIDE) - centre).sum(1)
    (frame,) = landscape([Scene(log_density, np.zeros((0, 2)), "a scene")], window, ("x", "y"))
    height, width = frame.shape[1:]
    picture = frame[:, height // 8 : -height // 6, width // 6 : -width // 20].float().permute(1, 2, 0).numpy()
    yellow = picture[:, :, 0] + picture[:, :, 1] - 2 * picture[:, :, 2]  # the highest values of the map
    rows, columns = np.nonzero(yellow > 0.8 * yellow.max())
    assert (columns.mean() > picture.shape[1] / 2) == (centre[0] > 0)
    assert (rows.mean() < picture.shape[0] / 2) == (centre[1] > 0), "the vertical axis points upwards"


def test_a_figure_of_the_plane_shows_points_where_the_flow_has_gone_to_infinity() -> None:
    random = np.random.default_rng(0)
    data, window = random.normal(size=(50, 2)), Window((-3, 3), (-3, 3))
    log_density = -np.square(window.grid(SIDE)).sum(1) / 2
    log_density[:10] = -np.inf
    content = plane(data, data, log_density, random.normal(size=(4, 5, 2)), window, ("a$", "b"), "density", "t$")
    assert Image.open(io.BytesIO(content)).size == (1196, 1040)


@pytest.mark.parametrize(("data", "samples", "drawn"), [(4096, 2000, 2000), (90, 200, 90), (9000, 9000, 2000)])
def test_as_many_data_as_samples_are_drawn_and_their_titles_say_how_many(
    data: int, samples: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_columns, "png", lambda figure, _origin: figure)
    random, window = np.random.default_rng(0), Window((-3, 3), (-3, 3))
    found: Any = plane(
        random.normal(size=(data, 2)), random.normal(size=(samples, 2)), -np.square(window.grid(SIDE)).sum(1),
        random.normal(size=(4, 5, 2)), window, ("a", "b"), "density", "title",
    )  # fmt: skip
    for axes, name in zip(found.axes, ("data", "samples"), strict=False):
        assert axes.get_title() == f"{name} ({drawn:,})"
        assert len(np.unique(axes.collections[0].get_offsets(), axis=0)) == drawn


@pytest.mark.parametrize("columns", [1, 3, MOST_COLUMNS + 2])
def test_pairs_of_columns_are_drawn_up_to_the_most(columns: int) -> None:
    rows = np.random.default_rng(0).normal(size=(30, columns))
    rows[:, 0] = rows[:, 0].round()
    width, height = Image.open(io.BytesIO(pairs(rows, rows[:7], list("abcdefgh")[:columns], "rows"))).size
    assert width == height == pytest.approx((1.9 * min(columns, MOST_COLUMNS) + 0.8) * 130, abs=1)
