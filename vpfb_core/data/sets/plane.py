"""Sets of points in the plane with known densities, drawn from a fixed seed: for first steps and for checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.named_set import NamedSet
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.table import Table
from vpfb_core.errors import DataError, counted
from vpfb_core.machine import noise

COUNT = 20_000
COLUMNS = ("x", "y")
MOONS_NOISE = 0.1  # standard deviations of the noise on curves
RINGS_NOISE, RINGS = 0.12, (1.0, 2.0, 3.0)  # and their radii
SWISS_NOISE = 0.3
GAUSSIANS_RADIUS, GAUSSIANS_STD, GAUSSIANS = 4.0, 0.5, 8
ARMS, ARM_LENGTH, ARM_WIDTH, ARM_TURN = 5, 0.3, 0.1, 0.25
SQUARES = 4  # per side of the checkerboard, which covers [-2, 2]²

Points = tuple[Tensor, Tensor]  # points (N, 2), and the class of each, int64 (N,)
# Draws the points from uniform and normal numbers, each (N, 3).
Drawing = Callable[[Tensor, Tensor], Points]


def moons(uniform: Tensor, normal: Tensor) -> Points:
    """Two half circles that interlock, with noise."""
    lower, turn = (uniform[:, 0] < 0.5).long(), math.pi * uniform[:, 1]
    upper_moon = torch.stack([turn.cos(), turn.sin()], 1)
    lower_moon = torch.stack([1 - turn.cos(), 0.5 - turn.sin()], 1)
    return torch.where(lower[:, None] > 0, lower_moon, upper_moon) + MOONS_NOISE * normal[:, :2], lower


def rings(uniform: Tensor, normal: Tensor) -> Points:
    """Concentric circles with equal numbers of points, with noise."""
    ring, turn = (uniform[:, 0] * len(RINGS)).long(), 2 * math.pi * uniform[:, 1]
    radius = torch.tensor(RINGS, dtype=uniform.dtype)[ring]
    return radius[:, None] * torch.stack([turn.cos(), turn.sin()], 1) + RINGS_NOISE * normal[:, :2], ring


def pinwheel(uniform: Tensor, normal: Tensor) -> Points:
    """Five curved arms."""
    arm = (uniform[:, 0] * ARMS).long()
    along, across = 1 + ARM_LENGTH * normal[:, 0], ARM_WIDTH * normal[:, 1]
    turn = 2 * math.pi * arm / ARMS + ARM_TURN * along.exp()
    points = [along * turn.cos() - across * turn.sin(), along * turn.sin() + across * turn.cos()]
    return torch.stack(points, 1), arm


def checkerboard(uniform: Tensor, normal: Tensor) -> Points:
    """The black squares of a board of 4x4 squares, uniformly."""
    del normal
    square = (uniform[:, 0] * SQUARES * SQUARES / 2).long()
    row = square // (SQUARES // 2)
    column = 2 * (square % (SQUARES // 2)) + row % 2
    corner = torch.stack([column, row], 1) - SQUARES / 2
    return corner + uniform[:, 1:], square


def eight_gaussians(uniform: Tensor, normal: Tensor) -> Points:
    """Eight round Gaussians on a circle."""
    component = (uniform[:, 0] * GAUSSIANS).long()
    turn = 2 * math.pi * component / GAUSSIANS
    centre = GAUSSIANS_RADIUS * torch.stack([turn.cos(), turn.sin()], 1)
    return centre + GAUSSIANS_STD * normal[:, :2], component


def swiss_roll(uniform: Tensor, normal: Tensor) -> Points:
    """A spiral with noise."""
    turn = 1.5 * math.pi * (1 + 2 * uniform[:, 0])
    points = turn[:, None] * torch.stack([turn.cos(), turn.sin()], 1) + SWISS_NOISE * normal[:, :2]
    return points, torch.zeros(len(points), dtype=torch.int64)


def draw(drawing: Drawing, count: int, *key: int | str) -> Points:
    """Points of a set, float64, which depend on `count` and the key of the random numbers."""
    generator = noise.generator("plane", *key)
    uniform = torch.rand(count, 3, dtype=torch.float64, generator=generator)
    return drawing(uniform, torch.randn(count, 3, dtype=torch.float64, generator=generator))


def load(name: str, drawing: Drawing, classes: tuple[str, ...], options: LoadOptions) -> Table:
    """The points of a set as a table of the columns x and y, and their classes if they are asked for.

    Raises:
        DataError: the set has no classes, or not the columns or the classes that options name.
    """
    if options.conditional and not classes:
        raise DataError(f"'{name}' has no classes", hint="train without `conditional`")
    points, labels = (drawn[: options.limit] for drawn in draw(drawing, COUNT, name))
    table = Table(
        name, points, labels[:, None] if classes else None, (ConditionGroup("class", classes),) if classes else (),
        notes=(f"{counted(len(points), 'points')} drawn from a fixed seed", *options.cut(COUNT)),
        files=_numbers(len(points)), columns=COLUMNS,
    ).as_asked(options)  # fmt: skip
    return table if options.conditional else replace(table, labels=None, groups=())


def _named(name: str, summary: str, drawing: Drawing, classes: tuple[str, ...] = ()) -> NamedSet:
    return NamedSet(name, summary, partial(load, name, drawing, classes), COUNT, (2,), classes)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(i + 1) for i in range(count))


SETS = (
    _named("moons", "points in the plane: two half circles with noise", moons, ("upper", "lower")),
    _named("rings", "points in the plane: three circles with noise", rings, ("inner", "middle", "outer")),
    _named("pinwheel", "points in the plane: five curved arms", pinwheel, _numbers(ARMS)),
    _named("checkerboard", "points in the plane: the squares of a checkerboard", checkerboard),
    _named("eight-gaussians", "points in the plane: eight Gaussians on a circle", eight_gaussians, _numbers(GAUSSIANS)),
    _named("swiss-roll", "points in the plane: a spiral with noise", swiss_roll),
)
