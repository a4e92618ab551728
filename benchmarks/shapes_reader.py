"""A reader of the attributes of `shapes` from pixels: it fits drawings of every shape and takes the best one.

It involves no training and no labels. The ground is the median of the outermost pixels, and the colour is the direction
in which other pixels differ from it. Each outline is fitted by least squares in position, radius, softness and
contrast. The softness allows for a slight blur, which generated pictures have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from vpfb_core.data.sets.shapes import COLOURS, COLUMNS, GROUPS, OUTLINES, RADII, SMALLEST, coverage
from vpfb_core.errors import ConfigError

MAX_MISFIT = 0.07  # of `Readings.misfit` in a clear picture
NOISE_ALLOWANCE = 1.4  # the variance of the noise is known from the border alone, to about a fifth
MAX_COLOUR_ERROR = 0.25  # distance from the nearest of `COLOURS`, in RGB
MIN_CONTRAST = 0.3  # distance from the ground, in RGB
MIN_SIGNAL = 200.0  # energy of the drawing over the variance of the noise; in 4,000 pictures of mere noise at most 160
MIN_RADIUS, MAX_RADIUS = 0.75 * min(RADII.values()), 1.3 * max(RADII.values())

_MEDIAN_DEVIATION = 0.6745  # median of |x| over the standard deviation, for normal noise
_STEPS = 4
_FINENESS = 32  # points a side at which an outline is laid over a picture, at least
_BATCH = 512

# What is fitted beside the contrast: column, row, radius, softness.
_LEAST = torch.tensor([0, 0, 0.5 * MIN_RADIUS, 0])
_MOST = torch.tensor([1, 1, 1.5 * MAX_RADIUS, 0.35])


@dataclass(frozen=True, eq=False)
class Readings:
    """The attributes that were read from N pictures.

    Attributes:
        labels: int64 (N, 4), the class in each of `shapes.GROUPS`; a row is −1 if there is no clear single shape.
        misfit: (N,), the sum of squares that the best drawing does not explain, beyond the noise of the picture, over
            the sum that it explains: 0 for a picture of the set, about 1 for two shapes in one picture. It has no
            meaning for pictures of noise.
    """

    labels: Tensor
    misfit: Tensor


@dataclass(frozen=True, eq=False)
class _Drawing:
    """One outline per picture.

    Attributes:
        place: column, row, radius and softness, (N, 4).
        covered: the share of each pixel inside the outline, (N, S²).
        contrast: the best factor of the outline, (N,).
        residual: the sum of squares that is left, (N,).
    """

    place: Tensor
    covered: Tensor
    contrast: Tensor
    residual: Tensor

    def or_else(self, other: _Drawing) -> _Drawing:
        """The better one of two drawings of each picture."""
        better = self.residual <= other.residual
        rows = better[:, None]
        return _Drawing(
            torch.where(rows, self.place, other.place),
            torch.where(rows, self.covered, other.covered),
            torch.where(better, self.contrast, other.contrast),
            torch.where(better, self.residual, other.residual),
        )


def read(images: Tensor) -> Readings:
    """The shape, colour, size and position in each picture.

    Args:
        images: (N, 3, S, S), uint8 or float in [0, 1], S at least 8. From 16 pixels on, the shapes are distinguished
            reliably.
    Raises:
        ConfigError: the pictures are not square and in colour.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[3] < SMALLEST:
        raise ConfigError(
            f"shapes cannot be read from pictures of shape {tuple(images.shape)}",
            hint=f"(N, 3, S, S) in colour, S at least {SMALLEST}",
        )
    pixels = images.detach().cpu()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    parts = [_read(part) for part in pixels.split(_BATCH) if len(part)]
    return Readings(
        torch.cat([torch.empty(0, len(GROUPS), dtype=torch.int64), *(part.labels for part in parts)]),
        torch.cat([torch.empty(0), *(part.misfit for part in parts)]),
    )


def _read(pixels: Tensor) -> Readings:
    ground, noise = _ground(pixels)
    difference = pixels - ground[..., None, None]
    direction = _direction(difference)
    along = torch.einsum("nchw,nc->nhw", difference, direction)

    drawings = [_fit(along, outline) for outline in range(len(OUTLINES))]
    shape = torch.stack([drawing.residual for drawing in drawings]).argmin(0)
    best = reduce(_Drawing.or_else, drawings)

    explained = _energy(along) - best.residual
    unexplained = _energy(difference) - explained - NOISE_ALLOWANCE * noise * difference[0].numel()
    misfit = unexplained.clamp(min=0) / explained.clamp(min=1e-6)
    paint = ground + best.contrast[:, None] * direction
    colour_error, colour = torch.cdist(paint, torch.tensor(list(COLOURS.values()))).min(1)
    column, _, radius, _ = best.place.unbind(1)
    clear = (
        (misfit <= MAX_MISFIT)
        & (colour_error <= MAX_COLOUR_ERROR)
        & (best.contrast >= MIN_CONTRAST)
        & (explained >= MIN_SIGNAL * noise)
        & (radius >= MIN_RADIUS)
        & (radius <= MAX_RADIUS)
    )
    large = radius > math.sqrt(math.prod(RADII.values()))
    right = column > sum(COLUMNS.values()) / 2
    labels = torch.stack([shape, colour, large.long(), right.long()], 1)
    return Readings(torch.where(clear[:, None], labels, -1), misfit)


def _ground(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The colour of the ground (N, 3) and the variance of its pixels (N,), from the outermost pixels.

    They are medians, so that a shape at the border affects neither.
    """
    border = torch.cat([pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, 1:-1, 0], pixels[:, :, 1:-1, -1]], 2)
    ground = border.median(2).values
    spread = (border - ground[..., None]).abs().flatten(1).median(1).values
    return ground, (spread / _MEDIAN_DEVIATION).square()


def _direction(difference: Tensor) -> Tensor:
    """The unit vector in RGB along which most of the difference from the ground lies, (N, 3)."""
    flat = difference.flatten(2)
    direction = torch.linalg.eigh(flat @ flat.mT).eigenvectors[:, :, -1]
    along = torch.einsum("ncp,nc->np", flat, direction)
    return direction * torch.where(along.pow(3).sum(1) < 0, -1.0, 1.0)[:, None]


def _fit(along: Tensor, outline: int) -> _Drawing:
    """The outline that explains pictures (N, S, S) best, by damped Gauss-Newton steps from a guess."""
    size = along.shape[1]
    nudges = torch.diag(torch.tensor([0.1 / size, 0.1 / size, 0.1 / size, 0.02]))
    longest = torch.tensor([1 / size, 1 / size, 1 / size, 0.1])
    drawing = _draw(along, outline, _guess(along))
    damping = torch.full((len(along),), 0.01)
    for _ in range(_STEPS):
        slopes = [
            (_cover(outline, drawing.place + nudge, size) - drawing.covered) / nudge.sum() * drawing.contrast[:, None]
            for nudge in nudges
        ]
        jacobian = torch.stack([*slopes, drawing.covered], 2)
        normal = jacobian.mT @ jacobian
        normal += torch.diag_embed(normal.diagonal(dim1=1, dim2=2).clamp(min=1e-6) * damping[:, None])
        error = along.flatten(1) - drawing.contrast[:, None] * drawing.covered
        step = torch.linalg.solve(normal, jacobian.mT @ error[..., None])[:, : len(nudges), 0]
        place = drawing.place + step.clamp(-longest, longest)
        tried = _draw(along, outline, place.clamp(_LEAST, _MOST))
        damping = torch.where(tried.residual < drawing.residual, damping / 4, damping * 8)
        drawing = tried.or_else(drawing)
    return drawing


def _guess(along: Tensor) -> Tensor:
    """An initial place (N, 4) with the centre and the area of the pixels above half of the contrast."""
    size = along.shape[1]
    contrast = along.pow(3).sum((1, 2)) / _energy(along).clamp(min=1e-12)
    above = (along > contrast[:, None, None] / 2).float()
    area = above.sum((1, 2)).clamp(min=1)
    at = (torch.arange(size) + 0.5) / size
    radius = (area / math.pi).sqrt() / size
    place = [above.sum(1) @ at / area, above.sum(2) @ at / area, radius.clamp(MIN_RADIUS, MAX_RADIUS), 0 * radius]
    return torch.stack(place, 1)


def _draw(along: Tensor, outline: int, place: Tensor) -> _Drawing:
    covered = _cover(outline, place, along.shape[1])
    contrast = (covered * along.flatten(1)).sum(1) / _energy(covered).clamp(min=1e-6)
    return _Drawing(place, covered, contrast, _energy(along.flatten(1) - contrast[:, None] * covered))


def _cover(outline: int, place: Tensor, size: int) -> Tensor:
    """The coverage (N, S²) of an outline, blurred by its softness along both axes."""
    column, row, radius, softness = place.unbind(1)
    covered = coverage(torch.full((len(place),), outline), column, row, radius, size, finer=-(-_FINENESS // size))
    for axis in (1, 2):
        neighbours = covered.roll(1, axis) + covered.roll(-1, axis)
        covered = covered + softness[:, None, None] * (neighbours - 2 * covered)
    return covered.flatten(1)


def _energy(values: Tensor) -> Tensor:
    """The sum of squares of each picture, (N,)."""
    return values.flatten(1).square().sum(1)
