"""`shapes`: one shape on a dark ground, drawn at any size from a seed, with independent and exclusive attributes.

Every combination of shape, colour, size and position is as likely as any other, so that what a composed model draws
can be counted (`shapes_reader` reads the attributes back from the pixels). Where a shape lies, how large it is, its
colour and the grey of the ground vary a little within a class: pictures of one class have a density.

Lengths are in units of the picture's side; x goes right and y down. A shape's radius is that of the circle of the same
area: size is independent of shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vpfb_core.data.framing import MAX_BYTES
from vpfb_core.data.images import ImageSet
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.stacking import stack_array
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.noise import generator

COUNT = 10_000
SIZE = 16
SMALLEST = 8

# Seen from the shape's centre of mass, in units of its radius: negative inside, and near an edge the distance to it.
Outline = Callable[[Tensor, Tensor], Tensor]


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - math.sqrt(math.pi) / 2


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, one corner up."""
    slanted = math.sqrt(3) / 2 * x.abs() - y / 2
    return torch.maximum(slanted, y) - math.sqrt(math.pi / math.sqrt(27))


def _cross(x: Tensor, y: Tensor) -> Tensor:
    """Upright, each arm a square: five squares in all."""
    half = math.sqrt(math.pi / 5) / 2
    longer, shorter = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(longer - 3 * half, shorter - half)


OUTLINES: dict[str, Outline] = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.20, 0.15),
    "green": (0.20, 0.70, 0.25),
    "blue": (0.20, 0.35, 0.90),
    "yellow": (0.92, 0.80, 0.20),
}
RADII = {"small": 0.14, "large": 0.20}
COLUMNS = {"left": 0.38, "right": 0.62}
ROW = 0.535
GROUND = 0.12

# The largest shape keeps a sixteenth of the side clear all round, wherever these put it.
_COLUMN_SPREAD, _ROW_SPREAD, _RADIUS_SPREAD = 0.04, 0.145, 0.03  # the last as a share of the radius
_COLOUR_SPREAD, _GROUND_SPREAD = 0.05, 0.04

GROUPS = (
    ConditionGroup("shape", tuple(OUTLINES)),
    ConditionGroup("colour", tuple(COLOURS)),
    ConditionGroup("size", tuple(RADII)),
    ConditionGroup("position", tuple(COLUMNS)),
)
CLASSES = tuple(name for group in GROUPS for name in group.classes)

_NUMBERS = len(GROUPS) + 7  # column, row, radius, red, green, blue, ground
_FINENESS = 64  # points a side at which a drawn outline is looked at, at least; never fewer than two a pixel
_POINTS = 2**20  # looked at together: bounds the memory


def load_shapes(options: LoadOptions) -> ImageSet:
    """The shapes of seed 0: uint8 (10000, 3, 16, 16) unless asked otherwise, four condition groups if `conditional`.

    A limit takes the first so many. In grey (`channels` 1) red and blue look alike: there is no group of colours then.

    Raises:
        ConfigError: a size below `SMALLEST`.
        DataError: they would take more memory than is allowed.
    """
    size = options.size or max(SMALLEST, min(SIZE, options.max_size or SIZE))
    drawn = draw(min(COUNT, options.limit or COUNT), size)
    if options.channels == 1:
        pixels = drawn.images.permute(0, 2, 3, 1).numpy()
        drawn = replace(drawn, images=stack_array(pixels, size=size, channels=1, workers=options.workers).images)
    note = f"{len(drawn):,} {'grey' if options.channels == 1 else 'colour'} images of {size}×{size}, drawn from a seed"
    if not options.conditional or drawn.labels is None:
        return replace(drawn, labels=None, groups=(), notes=(note,))
    kept = [column for column, group in enumerate(GROUPS) if options.channels != 1 or group.name != "colour"]
    return replace(drawn, labels=drawn.labels[:, kept], groups=tuple(GROUPS[i] for i in kept), notes=(note,))


def draw(n: int, size: int = SIZE, seed: int = 0, *, without: Iterable[Sequence[str]] = ()) -> ImageSet:
    """n pictures in colour, uint8 (n, 3, size, size), with the labels (n, 4) of `GROUPS`.

    Picture i is fixed by (seed, i), at every size. The attributes are independent and uniform; with `without` they are
    uniform over what remains, and the pictures that it does not name stay as they were.

    Args:
        n: how many.
        size: side in pixels, at least `SMALLEST`.
        seed: of the drawing.
        without: combinations that do not occur: (("circle", "red"),) leaves out all red circles.
    Raises:
        ConfigError: size out of its range, an unknown class, or nothing left to draw.
        DataError: the pictures would take more memory than is allowed.
    """
    if n < 0 or size < SMALLEST:
        raise ConfigError(f"{n} shapes of {size}×{size} cannot be drawn", hint=f"{SMALLEST} pixels is the least")
    if (needed := 3 * n * size**2) > MAX_BYTES:
        gibibytes = f"{needed / 2**30:.1f} GiB, more than the {MAX_BYTES / 2**30:g} GiB allowed"
        raise DataError(f"{n:,} shapes of {size}×{size} would take {gibibytes}", hint="choose a smaller --size")
    forbidden = _forbidden(without)

    numbers = _uniform(seed, range(n), attempt=0)
    attempt = 0
    while len(again := torch.nonzero(_matches(_labels(numbers), forbidden))[:, 0]):
        attempt += 1
        numbers[again] = _uniform(seed, again.tolist(), attempt)
    labels = _labels(numbers)
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    finer = max(2, -(-_FINENESS // size))
    step = max(1, _POINTS // (finer * size) ** 2)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        images[rows] = _paint(labels[rows], numbers[rows, len(GROUPS) :], size, finer)
    return ImageSet("shapes", images, labels, GROUPS, flips=False)  # a flip would turn left into right


def coverage(outlines: Tensor, columns: Tensor, rows: Tensor, radii: Tensor, size: int, finer: int = 1) -> Tensor:
    """The share of each pixel that lies in a shape, float32 (N, size, size) in [0, 1].

    Averages, over the points of each pixel, a linear ramp one point wide across the outline: exact for upright edges,
    off by up to a quarter of a point at corners.

    Args:
        outlines: the index of each shape in `OUTLINES`, int64 (N,).
        columns: x of the centres of mass, (N,).
        rows: y of them, (N,).
        radii: (N,).
        size: side in pixels.
        finer: points a pixel, along each axis.
    """
    points = size * finer
    at = (torch.arange(points) + 0.5) / points
    covered = torch.empty(len(outlines), size, size)
    for index, outline in enumerate(OUTLINES.values()):
        chosen = torch.nonzero(outlines == index)[:, 0]
        column, row, radius = (value[chosen, None, None].float() for value in (columns, rows, radii))
        distance = outline((at - column) / radius, (at[:, None] - row) / radius)
        inside = distance.mul_(-points * radius).add_(0.5).clamp_(0, 1)
        covered[chosen] = avg_pool2d(inside[:, None], finer)[:, 0]
    return covered


def _uniform(seed: int, indices: Iterable[int], attempt: int) -> Tensor:
    """Numbers in [0, 1), float64 (len(indices), _NUMBERS), those of a picture fixed by (seed, index, attempt)."""
    draws = [
        torch.rand(_NUMBERS, generator=generator(seed, "shapes", index, attempt), dtype=torch.float64)
        for index in indices
    ]
    return torch.stack(draws) if draws else torch.empty(0, _NUMBERS, dtype=torch.float64)


def _labels(numbers: Tensor) -> Tensor:
    """int64 (N, 4): each of the first numbers says which class of its group."""
    counts = torch.tensor([len(group.classes) for group in GROUPS])
    return (numbers[:, : len(GROUPS)] * counts).long()


def _paint(labels: Tensor, jitter: Tensor, size: int, finer: int) -> Tensor:
    """uint8 (N, 3, size, size) of labels (N, 4) and numbers in [0, 1) (N, 7)."""
    spread = 2 * jitter - 1
    shape, colour, large, position = labels.unbind(1)
    columns = _values(COLUMNS.values())[position] + _COLUMN_SPREAD * spread[:, 0]
    rows = ROW + _ROW_SPREAD * spread[:, 1]
    radii = _values(RADII.values())[large] * (1 + _RADIUS_SPREAD * spread[:, 2])
    paint = _values(COLOURS.values())[colour] + _COLOUR_SPREAD * spread[:, 3:6]
    ground = GROUND + _GROUND_SPREAD * spread[:, 6:7]

    covered = coverage(shape, columns, rows, radii, size, finer)[:, None].double()
    colours = ground[..., None, None] + covered * (paint - ground)[..., None, None]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)


def _values(values: Iterable[float | tuple[float, ...]]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _forbidden(without: Iterable[Sequence[str]]) -> Tensor:
    """Each combination as class indices, −1 where any class will do, int64 (K, 4)."""
    rows = []
    without = tuple(without)
    for combination in without:
        row = [-1] * len(GROUPS)
        for name in combination:
            column = next((i for i, group in enumerate(GROUPS) if name in group.classes), None)
            if column is None:
                raise ConfigError(f"shapes have no class {name!r}", hint=f"classes: {', '.join(CLASSES)}")
            index = GROUPS[column].classes.index(name)
            if row[column] not in (-1, index):
                raise ConfigError(f"no shape is {' and '.join(combination)}: they exclude each other")
            row[column] = index
        rows.append(row)
    forbidden = torch.tensor(rows, dtype=torch.int64).reshape(-1, len(GROUPS))
    everything = torch.cartesian_prod(*(torch.arange(len(group.classes)) for group in GROUPS))
    if bool(_matches(everything, forbidden).all()):
        raise ConfigError(f"no shape is left without {' and '.join(map(' '.join, without))}")
    return forbidden


def _matches(labels: Tensor, combinations: Tensor) -> Tensor:
    """Whether labels (N, 4) are of one of the combinations (K, 4), bool (N,)."""
    agrees = (combinations == labels[:, None]) | (combinations == -1)
    return agrees.all(2).any(1)
