"""Images altered at random, which stand for outliers in the training of a detector.

A region of an image, or all of it, is covered with something else, in part or completely, or its colours are changed.
Such training is that of CutPaste (Li et al. 2021, arXiv 2104.04015), DRAEM (Zavrtanik et al. 2021, arXiv 2108.07610)
and natural synthetic anomalies (Schlüter et al. 2022, arXiv 2109.15222).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RECOLOURED = 0.25  # the share of the images whose colours are changed; something is pasted into the others
WHOLE = 1 / 3  # the share of the pasted images or copies that cover the whole image
OPACITY = (0.3, 1.0)
WHOLE_OPACITY = (0.3, 0.7)  # so that something of the image remains
FLAT = 0.4  # the share of what is pasted that has one colour
SCALES, SHIFT = (0.7, 1.4), 0.5  # of moved copies; the shift relative to half of the side
COVERED = (0.1, 0.7)  # the share of an image that a smooth region covers
SIDES = (1 / 6, 1 / 2)  # of rectangles, relative to the image
COLOUR, GAIN = 0.4, 0.6  # standard deviations of the entries of a change of colours, and of the logarithm of a gain


def alter(images: Tensor, random: torch.Generator) -> Tensor:
    """An altered copy of each image.

    Args:
        images: on the CPU in [0, 1], (N, C, H, W), N ≥ 2. Parts of each are pasted into another one.
        random: the generator of all choices, on the CPU.
    """
    flat = _chosen(len(images), FLAT, random)
    whole = _chosen(len(images), WHOLE, random) & ~flat
    pasted = torch.where(flat, _flat(images, random), _copies(images, random))
    region = torch.where(_chosen(len(images), 0.5, random), _smooth(images, random), _rectangles(images, random))
    opacity = torch.where(whole, _uniform(len(images), *WHOLE_OPACITY, random), _uniform(len(images), *OPACITY, random))
    covered = images + torch.where(whole, 1.0, region) * opacity * (pasted - images)
    return torch.where(_chosen(len(images), RECOLOURED, random), _recoloured(images, random), covered)


def _copies(images: Tensor, random: torch.Generator) -> Tensor:
    """The next image of each image, half of them turned, scaled and moved, or the image itself so."""
    count, others = len(images), images.roll(1, 0)
    turn = _uniform(count, -math.pi, math.pi, random).flatten()
    scale = _uniform(count, math.log(SCALES[0]), math.log(SCALES[1]), random).flatten().exp()
    shift = SHIFT * (2 * torch.rand(count, 2, generator=random) - 1)
    across, down = scale * turn.cos(), scale * turn.sin()
    maps = torch.stack([
        torch.stack([across, -down, shift[:, 0]], 1), torch.stack([down, across, shift[:, 1]], 1)
    ], 1)  # fmt: skip
    source = torch.where(_chosen(count, 0.5, random), images, others)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(source, grid, align_corners=False, padding_mode="reflection")
    return torch.where(_chosen(count, 1 / 3, random), others, moved)


def _flat(images: Tensor, random: torch.Generator) -> Tensor:
    """Images of one colour, a random one or that of a pixel of the next image."""
    count, channels = images.shape[:2]
    pixel = torch.randint(images[0, 0].numel(), (count, 1, 1), generator=random).expand(-1, channels, 1)
    known = images.roll(1, 0).flatten(2).gather(2, pixel)[..., None]
    drawn = torch.rand(count, channels, 1, 1, generator=random)
    return torch.where(_chosen(count, 0.5, random), known, drawn).expand_as(images)


def _smooth(images: Tensor, random: torch.Generator) -> Tensor:
    """Random regions with smooth borders, sharp or blurred, in [0, 1], (N, 1, H, W)."""
    count, size = len(images), list(images.shape[2:])
    coarse, fine = (torch.randn(count, 1, cells, cells, generator=random) for cells in (4, 6))
    first, second = (F.interpolate(each, size, mode="bicubic", align_corners=True) for each in (coarse, fine))
    height = torch.where(_chosen(count, 0.5, random), first, second)
    rank = (_uniform(count, *COVERED, random) * height[0].numel()).long().flatten(1)
    border = height.flatten(1).sort(1, descending=True).values.gather(1, rank)[:, :, None, None]
    sharpness = torch.where(_chosen(count, 0.5, random), 100.0, 4.0)
    return ((height - border) * sharpness).sigmoid()


def _rectangles(images: Tensor, random: torch.Generator) -> Tensor:
    """Random rectangles, 1 inside and 0 outside, (N, 1, H, W)."""
    inside = torch.ones(1)
    for axis in (2, 3):
        size = images.shape[axis]
        length = (_uniform(len(images), *SIDES, random) * size).ceil()
        first = (torch.rand(len(images), 1, 1, 1, generator=random) * (size - length + 1)).floor()
        position = torch.arange(size).view([-1 if each == axis else 1 for each in range(4)])
        inside = inside * ((position >= first) & (position < first + length))
    return inside


def _recoloured(images: Tensor, random: torch.Generator) -> Tensor:
    """Images in which each channel is a random mixture of all, or all are nearer to or farther from grey, or brighter.

    Images with one channel are brighter or darker only.
    """
    count, channels = images.shape[:2]
    mixing = torch.eye(channels) + COLOUR * torch.randn(count, channels, channels, generator=random)
    mixed = torch.einsum("nij,njhw->nihw", mixing, images - 0.5) + 0.5
    grey = images.mean(1, keepdim=True)
    saturated = grey + _uniform(count, 0.0, 1.2, random) * (images - grey)
    coloured = torch.where(_chosen(count, 0.5, random), mixed, saturated) if channels > 1 else images
    gain = (GAIN * torch.randn(count, 1, 1, 1, generator=random)).exp()
    brighter = _chosen(count, 0.5, random) | (channels == 1)
    return torch.where(brighter, coloured * gain, coloured).clamp(0, 1)


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    """Uniform random numbers, (N, 1, 1, 1)."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=random)


def _chosen(count: int, share: float, random: torch.Generator) -> Tensor:
    """Which of N images belong to a random share of them, (N, 1, 1, 1)."""
    return torch.rand(count, 1, 1, 1, generator=random) < share
