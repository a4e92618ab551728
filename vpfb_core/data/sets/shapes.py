"""`shapes`: one shape on a dark ground, drawn at any size from a seed, with independent and exclusive attributes.

All combinations of shape, colour, size and position are equally likely, so that the samples of a composed model can be
counted (`benchmarks/shapes_reader.py` reads the attributes back from the pixels). Position, size, colour and the grey
level of the ground vary a little within a class, so that the images of a class have a density.

Lengths are in units of the image's side; x goes right and y down. A shape's radius is that of the circle of the same
area, so that size is independent of shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vpfb_core.data.framing import MAX_BYTES
from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.data.images import ImageSet
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.named_set import NamedSet
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.stacking import stack_array
from vpfb_core.errors import ConfigError, DataError, counted
from vpfb_core.machine.noise import generator

COUNT = 10_000
SIZE = 16
SMALLEST = 8

# A function of x and y from the shape's centre of mass, in units of its radius: negative inside, and near an edge the
# distance to it.
Outline = Callable[[Tensor, Tensor], Tensor]


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - math.sqrt(math.pi) / 2


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, with one corner at the top."""
    slanted = math.sqrt(3) / 2 * x.abs() - y / 2
    return torch.maximum(slanted, y) - math.sqrt(math.pi / math.sqrt(27))


def _cross(x: Tensor, y: Tensor) -> Tensor:
    """Upright; each arm is a square, so that it has five squares."""
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

# With these spreads the largest shape keeps a sixteenth of the side clear on all sides.
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
_FINENESS = 64  # least number of points per side at which an outline is evaluated, and at least two per pixel
_POINTS = 2**20  # evaluated together: bounds the memory


def load_shapes(options: LoadOptions) -> ImageSet:
    """The shapes of seed 0: uint8 (10000, 3, 16, 16) by default, with four condition groups if `conditional`.

    A limit takes the first images. In grey (`channels` 1) red and blue look alike, so there is no group of colours.

    Raises:
        ConfigError: a size below `SMALLEST`.
        DataError: the images would take more memory than is allowed.
    """
    size = options.size or max(SMALLEST, min(SIZE, options.max_size or SIZE))
    drawn = draw(min(COUNT, options.limit or COUNT), size)
    if options.channels == 1:
        pixels = drawn.images.permute(0, 2, 3, 1).numpy()
        drawn = replace(drawn, data=stack_array(pixels, size=size, channels=1, workers=options.workers).images)
    kind = "grey" if options.channels == 1 else "colour"
    notes = (f"{counted(len(drawn), f'{kind} images')} of {size}x{size}, drawn from a seed", *options.cut(COUNT))
    if not options.conditional or drawn.labels is None:
        return replace(drawn, labels=None, groups=(), notes=notes)
    kept = [column for column, group in enumerate(GROUPS) if options.channels != 1 or group.name != "colour"]
    return replace(drawn, labels=drawn.labels[:, kept], groups=tuple(GROUPS[i] for i in kept), notes=notes)


def draw(n: int, size: int = SIZE, seed: int = 0, *, without: Iterable[Sequence[str]] = ()) -> ImageSet:
    """n images in colour, uint8 (n, 3, size, size), with the labels (n, 4) of `GROUPS`.

    Image i is fixed by (seed, i), at every size. The attributes are independent and uniform. With `without` they are
    uniform over the remaining combinations, and images of those are the same as without it.

    Args:
        n: number of images.
        size: side in pixels, at least `SMALLEST`.
        seed: random seed.
        without: combinations that do not occur: (("circle", "red"),) leaves out all red circles.
    Raises:
        ConfigError: the size is out of its range, a class is unknown, or no combination is left.
        DataError: the images would take more memory than is allowed.
    """
    if n < 0 or size < SMALLEST:
        raise ConfigError(
            f"{n} shapes of {size}x{size} cannot be drawn", hint=f"the smallest size is {SMALLEST} pixels"
        )
    if (needed := 3 * n * size**2) > MAX_BYTES:
        gibibytes = f"{needed / 2**30:.1f} GiB, more than the {MAX_BYTES / 2**30:g} GiB allowed"
        raise DataError(
            f"{n:,} shapes of {size}x{size} would take {gibibytes}",
            hint="use fewer images, or train with a smaller `size`",
        )
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
    return ImageSet("shapes", images, labels, GROUPS, flips=False)  # a flip would exchange the classes left and right


def coverage(outlines: Tensor, columns: Tensor, rows: Tensor, radii: Tensor, size: int, finer: int = 1) -> Tensor:
    """The fraction of each pixel that a shape covers, float32 (N, size, size) in [0, 1].

    It is the mean, over the points of each pixel, of a linear ramp one point wide across the outline: exact for edges
    along the axes, with an error of up to a quarter of a point at corners.

    Args:
        outlines: the index of each shape in `OUTLINES`, int64 (N,).
        columns: x of each centre of mass, (N,).
        rows: y of each centre of mass, (N,).
        radii: (N,).
        size: side in pixels.
        finer: points per pixel, along each axis.
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
    """Numbers in [0, 1), float64 (len(indices), _NUMBERS); those of an image are fixed by (seed, index, attempt)."""
    draws = [
        torch.rand(_NUMBERS, generator=generator(seed, "shapes", index, attempt), dtype=torch.float64)
        for index in indices
    ]
    return torch.stack(draws) if draws else torch.empty(0, _NUMBERS, dtype=torch.float64)


def _labels(numbers: Tensor) -> Tensor:
    """The class in each group, int64 (N, 4), chosen by the first numbers."""
    counts = torch.tensor([len(group.classes) for group in GROUPS])
    return (numbers[:, : len(GROUPS)] * counts).long()


def _paint(labels: Tensor, jitter: Tensor, size: int, finer: int) -> Tensor:
    """The images of labels (N, 4) and numbers in [0, 1) (N, 7), uint8 (N, 3, size, size)."""
    spread = 2 * jitter - 1
    shape, colour, large, position = labels.unbind(1)
    columns = _values(COLUMNS.values())[position] + _COLUMN_SPREAD * spread[:, 0]
    rows = ROW + _ROW_SPREAD * spread[:, 1]
    radii = _values(RADII.values())[large] * (1 + _RADIUS_SPREAD * spread[:, 2])
    paint = _values(COLOURS.values())[colour] + _COLOUR_SPREAD * spread[:, 3:6]
    ground = GROUND + _GROUND_SPREAD * spread[:, 6:7]

    covered = coverage(shape, columns, rows, radii, size, finer)[:, None].double()
    colours = ground[..., None, None] + covered * (paint - ground)[..., None, None]
    return to_bytes(colours)


def _values(values: Iterable[float | tuple[float, ...]]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _forbidden(without: Iterable[Sequence[str]]) -> Tensor:
    """Each combination as class indices, −1 for any class of a group, int64 (K, 4)."""
    rows = []
    without = tuple(without)
    for combination in without:
        row = [-1] * len(GROUPS)
        for name in combination:
            column = next((i for i, group in enumerate(GROUPS) if name in group.classes), None)
            if column is None:
                raise ConfigError(f"'shapes' has no class {name!r}", hint=f"classes: {', '.join(CLASSES)}")
            index = GROUPS[column].classes.index(name)
            if row[column] not in (-1, index):
                raise ConfigError(f"no shape is {' and '.join(combination)}: the classes exclude each other")
            row[column] = index
        rows.append(row)
    forbidden = torch.tensor(rows, dtype=torch.int64).reshape(-1, len(GROUPS))
    everything = torch.cartesian_prod(*(torch.arange(len(group.classes)) for group in GROUPS))
    if bool(_matches(everything, forbidden).all()):
        raise ConfigError(f"no shape is left without {' and '.join(map(' '.join, without))}")
    return forbidden


def _matches(labels: Tensor, combinations: Tensor) -> Tensor:
    """Whether labels (N, 4) match one of the combinations (K, 4), bool (N,)."""
    agrees = (combinations == labels[:, None]) | (combinations == -1)
    return agrees.all(2).any(1)


SETS = (NamedSet("shapes", "one shape per image, drawn from a seed, of any size", load_shapes, COUNT, None, CLASSES),)
