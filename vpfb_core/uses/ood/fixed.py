"""Fixed descriptors of images, which need no training: gradients of brightness, and colours."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.data.image_statistics import in_unit_range
from vpfb_core.model.reference import Descriptors

SIZE = 32  # larger images are first reduced to this size
DIRECTIONS = 9  # of gradients, without their sign
CELLS = 8  # along a side
COLOURS = 8  # the side of the thumbnail


def describe_fixed(images: Tensor) -> Descriptors:
    """The fixed descriptors of images (N, C, H, W), uint8 or in [0, 1], by kind of evidence. Rows have none."""
    if images.ndim != 4:
        return {}
    pictures = in_unit_range(images)
    if max(pictures.shape[2:]) > SIZE:
        pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
    return {"shape": gradient_histograms(pictures.mean(1)).cpu()}


def gradient_histograms(brightness: Tensor) -> Tensor:
    """Histograms of the directions of gradients in each cell of images (N, H, W), (N, cells² · directions).

    They are those of Dalal and Triggs (2005), with votes shared between neighbouring directions, and each cell divided
    by the strength of gradients around it.
    """
    padded = F.pad(brightness[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = (across.square() + down.square()).sqrt()
    position = torch.atan2(down, across).remainder(math.pi) * (DIRECTIONS / math.pi)
    bins = torch.arange(DIRECTIONS, device=brightness.device)[:, None, None]
    apart = (position[:, None] - bins).abs()
    votes = (1 - torch.minimum(apart, DIRECTIONS - apart)).clamp(min=0) * strength[:, None]
    cells = F.adaptive_avg_pool2d(votes, min(CELLS, brightness.shape[1]))
    around = F.avg_pool2d(cells.sum(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    return (cells / (around + 0.01)).sqrt().flatten(1)
