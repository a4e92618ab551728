"""Histograms: both sets are seen, in print too, whatever the scores are."""

from __future__ import annotations

import io
import math

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vpfb_core.uses.plotting.figure import BLUE, VERMILION
from vpfb_core.uses.plotting.histogram import histogram


def drawn(in_scores: Tensor, out_scores: Tensor) -> np.ndarray:
    """The picture, (H, W, 3) in [0, 255]."""
    content = histogram(in_scores, out_scores, names=("in", "out"), axis="energy", title="in against out")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def columns_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """The columns below the legend where a colour (or its lighter fill) is found."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    below = picture[picture.shape[0] // 3 :]
    tint = (255 - np.array([red, green, blue])) * 1.0
    towards = (255 - below) @ tint / (tint @ tint)  # 0 is white, 1 the colour
    off = np.abs((255 - below) - towards[..., None] * tint).max(-1)
    return np.nonzero(((towards > 0.4) & (off < 12)).any(0))[0]


def test_higher_scores_stand_on_the_right() -> None:
    random = torch.Generator().manual_seed(0)
    picture = drawn(torch.randn(300, generator=random), torch.randn(300, generator=random) + 8)
    assert columns_of(picture, BLUE).mean() + 200 < columns_of(picture, VERMILION).mean()


def test_extreme_scores_do_not_hide_the_shape_of_the_others() -> None:
    random = torch.Generator().manual_seed(0)
    picture = drawn(torch.randn(300, generator=random), torch.full((300,), 1e6))
    inside = columns_of(picture, BLUE)
    assert inside.max() - inside.min() > picture.shape[1] / 12


@pytest.mark.parametrize(
    ("in_scores", "out_scores"),
    [
        (torch.zeros(5), torch.zeros(5)),
        (torch.zeros(1), torch.ones(1)),
        (torch.randn(9), torch.full((3,), math.inf)),
        (torch.full((3,), -math.inf), torch.full((3,), math.inf)),
    ],
)
def test_degenerate_scores_are_drawn(in_scores: Tensor, out_scores: Tensor) -> None:
    assert drawn(in_scores, out_scores).min() < 128


def test_the_global_state_of_matplotlib_is_left_alone() -> None:
    before = dict(matplotlib.rcParams)
    drawn(torch.zeros(3), torch.ones(3))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["a$b$c", "cost $5", "$x^$", "a\\b", "100%", "caf\udce9", "a\nb"])
def test_the_name_of_a_folder_is_drawn_as_it_is(name: str) -> None:
    scores = torch.linspace(0, 1, 10)
    assert histogram(scores, scores, names=(name, name), axis="energy", title=name).startswith(b"\x89PNG")
