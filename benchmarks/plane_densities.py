"""The exact log-densities of the sets of points in the plane, in closed form or by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import ive
from torch import Tensor

from vpfb_core.data.sets import plane

NODES = 4_000  # of the quadrature along a curve, which are much closer together than the noise is wide
_PART = 500  # points at once


def moons(points: Tensor) -> Tensor:
    """Two half circles with noise: the mean of a Gaussian over places along both."""
    turn = math.pi * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    upper = torch.stack([turn.cos(), turn.sin()], 1)
    lower = torch.stack([1 - turn.cos(), 0.5 - turn.sin()], 1)
    return _along(torch.cat([upper, lower]), plane.MOONS_NOISE, points)


def swiss_roll(points: Tensor) -> Tensor:
    """A spiral with noise."""
    turn = 1.5 * math.pi * (1 + 2 * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)
    return _along(turn[:, None] * torch.stack([turn.cos(), turn.sin()], 1), plane.SWISS_NOISE, points)


def rings(points: Tensor) -> Tensor:
    """Circles with noise: the mean of a Gaussian over a circle of radius R is a Bessel function of r R/σ²."""
    radius, variance = points.norm(dim=1, keepdim=True), plane.RINGS_NOISE**2
    radii = torch.tensor(plane.RINGS, dtype=torch.float64)
    product = radius * radii / variance
    bessel = torch.from_numpy(ive(0, product.numpy())).log()  # exp(-product) I₀(product)
    logs = bessel - (radius - radii).square() / (2 * variance) - math.log(2 * math.pi * variance)
    return logs.logsumexp(1) - math.log(len(radii))


def eight_gaussians(points: Tensor) -> Tensor:
    """A mixture of Gaussians."""
    turn = 2 * math.pi * torch.arange(plane.GAUSSIANS, dtype=torch.float64) / plane.GAUSSIANS
    centres = plane.GAUSSIANS_RADIUS * torch.stack([turn.cos(), turn.sin()], 1)
    return _along(centres, plane.GAUSSIANS_STD, points)


def checkerboard(points: Tensor) -> Tensor:
    """The uniform density of the black squares, at points of these squares."""
    return torch.full((len(points),), -math.log(plane.SQUARES**2 / 2), dtype=torch.float64)


def _along(places: Tensor, std: float, points: Tensor) -> Tensor:
    """The log of the mean over the places of a round Gaussian at each point, float64 (N,)."""
    parts = []
    for some in points.double().split(_PART):
        squares = torch.cdist(some, places).square() / (2 * std**2)
        parts.append((-squares).logsumexp(1) - math.log(len(places)) - math.log(2 * math.pi * std**2))
    return torch.cat(parts)


LOG_DENSITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "moons": moons,
    "rings": rings,
    "checkerboard": checkerboard,
    "eight-gaussians": eight_gaussians,
    "swiss-roll": swiss_roll,
}
DRAWINGS = {
    "moons": plane.moons,
    "rings": plane.rings,
    "checkerboard": plane.checkerboard,
    "eight-gaussians": plane.eight_gaussians,
    "swiss-roll": plane.swiss_roll,
}


def fresh(name: str, count: int) -> Tensor:
    """Points of a set that are not among its rows, float64 (N, 2)."""
    return plane.draw(DRAWINGS[name], count, name, "fresh")[0]
