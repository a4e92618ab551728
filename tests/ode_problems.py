"""Differential equations with exact solutions, and what tests of solvers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vpfb_core.dynamics.ode import METHODS

ADAPTIVE = ["bosh3", "dopri5"]
FIXED = [name for name in METHODS if name not in ADAPTIVE]


@dataclass(frozen=True)
class Problem:
    """dx/dt = f(x, t) with its flow map: exact(x0, t0, t1) is where x0 at t0 is at t1."""

    f: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[Tensor, float, float], Tensor]
    start: tuple[tuple[float, ...], ...]

    def x0(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(self.start, dtype=dtype)


def rotate(x: Tensor, angle: float) -> Tensor:
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=x.dtype)
    return x @ turn.T


PROBLEMS = {
    "decay": Problem(lambda x, _t: -x, lambda x, t0, t1: x * math.exp(t0 - t1), ((1.0,), (-2.0,), (0.0,))),
    "oscillator": Problem(
        lambda x, _t: torch.stack((x[:, 1], -x[:, 0]), 1),
        lambda x, t0, t1: rotate(x, t1 - t0),
        ((1.0, 0.0), (0.3, -2.0)),
    ),
    "cosine growth": Problem(
        lambda x, t: torch.cos(t)[:, None] * x,
        lambda x, t0, t1: x * math.exp(math.sin(t1) - math.sin(t0)),
        ((1.0,), (-0.5,)),
    ),
    "unsteady oscillator": Problem(
        lambda x, t: (1 + torch.cos(t)[:, None] / 2) * torch.stack((x[:, 1], -x[:, 0]), 1),
        lambda x, t0, t1: rotate(x, t1 - t0 + (math.sin(t1) - math.sin(t0)) / 2),
        ((1.0, 0.0), (0.3, -2.0)),
    ),
    "logistic": Problem(
        lambda x, _t: x * (1 - x),
        lambda x, t0, t1: x / (x + (1 - x) * math.exp(t0 - t1)),
        ((0.1, 0.5), (0.9, 0.6)),
    ),
}
DIRECTIONS = {"forward": (0.2, 1.7), "backward": (1.7, 0.2)}
each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
each_direction = pytest.mark.parametrize("span", DIRECTIONS.values(), ids=DIRECTIONS.keys())
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def relative_error(x: Tensor, exact: Tensor) -> float:
    return ((x - exact).norm() / exact.norm()).item()


class Recorder:
    """dx/dt = −x, and the times at which it was asked."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        assert t.dtype == x.dtype
        assert (t == t[0]).all()
        self.times.append(t[0].item())
        return -x


def blow_up(x: Tensor, _t: Tensor) -> Tensor:
    """x(t) = 1/(1/x0 − t): infinite before t = 1 where x0 > 1."""
    return x**2
