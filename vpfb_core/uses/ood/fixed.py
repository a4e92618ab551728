"""Fixed descriptors of images, which need no training: directions of gradients, details of each size, and colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.data.image_statistics import in_unit_range
from vpfb_core.model.detector import reduced
from vpfb_core.model.reference import Descriptors

CELLS = 8  # along a side
EDGES = 9  # directions of edges, which have no sign
LIGHT = 8  # directions from dark to light
BANDS = 4  # sizes of details
COLOUR_WEIGHT = 8.0  # makes the mean colours of photographs vary about as much as the logarithms of their details
_SMALL = 0.01  # strength of gradients, and
_SMALL_SQUARE = 1e-5  # square of details, below which there is nothing to see


def describe_fixed(images: Tensor) -> Descriptors:
    """The fixed descriptors of images (N, C, H, W), uint8 or in [0, 1], by kind of evidence. Rows have none."""
    if images.ndim != 4:
        return {}
    pictures = in_unit_range(images)
    brightness = reduced(pictures).mean(1)
    edges = gradient_histograms(brightness, math.pi, EDGES).cpu()
    light = gradient_histograms(brightness, 2 * math.pi, LIGHT).cpu()
    by_region = torch.cat([edges.unflatten(1, (EDGES, -1)), light.unflatten(1, (LIGHT, -1))], 1).mT
    return {"detail": details(pictures).cpu(), "shape": edges, "shading": light, "part": by_region}


def details(pictures: Tensor) -> Tensor:
    """The log mean square of what each band of a Laplacian pyramid adds to images, and their mean colour, (N, F).

    They say how sharp, noisy, compressed and colourful a picture is, and nothing about positions. Images in grey have
    no colour, and with their mean brightness fewer outliers were found. The bands come first.
    """
    colour = []
    if pictures.shape[1] == 3:
        brightness = pictures.mean(1, keepdim=True)
        pictures = torch.cat([brightness, pictures[:, ::2] - brightness], 1)  # red and blue against brightness
        colour = [COLOUR_WEIGHT * pictures.mean((2, 3))]
    found: list[Tensor] = []
    for _ in range(BANDS):
        if found and min(pictures.shape[2:]) < 4:
            break
        coarse = F.avg_pool2d(pictures, 2, ceil_mode=True, count_include_pad=False)
        smooth = F.interpolate(coarse, pictures.shape[2:], mode="bilinear")
        found.append(((pictures - smooth).square().mean((2, 3)) + _SMALL_SQUARE).log())
        pictures = coarse
    return torch.cat(found + colour, 1)


def gradient_histograms(brightness: Tensor, period: float, directions: int) -> Tensor:
    """Histograms of the directions of gradients in each cell of images (N, H, W), (N, directions · cells²).

    They are those of Dalal and Triggs (2005): votes are shared between neighbouring directions, and each cell is
    divided by the strength of the gradients around it.

    Args:
        brightness: (N, H, W).
        period: 2π, or π if opposite directions are the same.
        directions: the number of directions.
    """
    padded = F.pad(brightness[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = (across.square() + down.square()).sqrt()
    position = torch.atan2(down, across).remainder(period) * (directions / period)
    apart = (position[:, None] - torch.arange(directions, device=brightness.device)[:, None, None]).abs()
    votes = (1 - torch.minimum(apart, directions - apart)).clamp(min=0) * strength[:, None]
    cells = F.adaptive_avg_pool2d(votes, min(CELLS, max(1, brightness.shape[1] // 2)))
    around = F.avg_pool2d(cells.sum(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    return (cells / (around + _SMALL)).sqrt().flatten(1)
