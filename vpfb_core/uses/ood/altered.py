"""Altered copies of in-distribution images, which show what the scores of a model notice and what they do not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.data.image_statistics import in_unit_range, to_bytes
from vpfb_core.machine import noise

BLUR = 1.0  # the standard deviation of the blur, in pixels
NOISE = 0.06  # that of the noise, where white is 1


def turned(images: Tensor) -> Tensor:
    """Images turned by 90°."""
    return images.rot90(1, (2, 3))


def mirrored(images: Tensor) -> Tensor:
    """Images with left and right exchanged."""
    return images.flip(3)


def with_a_hole(images: Tensor) -> Tensor:
    """Images in which a square near the middle, a quarter as wide as the image, has the colour of the first pixel."""
    side = images.shape[2]
    width = max(2, side // 4)
    random = noise.generator(0, "holes")
    corners = torch.randint(side // 4, side - side // 4 - width + 1, (2, len(images), 1), generator=random)
    down, across = ((torch.arange(side) >= each) & (torch.arange(side) < each + width) for each in corners)
    hole = (down[:, :, None] & across[:, None, :])[:, None].to(images.device)
    return torch.where(hole, images[:, :, :1, :1], images)


def blended(images: Tensor) -> Tensor:
    """The maximum of the pixels of each image and its neighbour in the set."""
    return torch.maximum(images, images.roll(1, 0))


def blurred(images: Tensor) -> Tensor:
    """Images under a Gaussian blur."""
    offsets = torch.arange(-3.0, 4.0)
    weights = torch.softmax(-offsets.square() / (2 * BLUR**2), 0).to(images.device)
    channels = images.shape[1]
    padded = F.pad(in_unit_range(images), (3, 3, 3, 3), mode="replicate")
    down = F.conv2d(padded, weights.reshape(1, 1, 7, 1).expand(channels, 1, 7, 1), groups=channels)
    return to_bytes(F.conv2d(down, weights.reshape(1, 1, 1, 7).expand(channels, 1, 1, 7), groups=channels))


def noised(images: Tensor) -> Tensor:
    """Images with Gaussian noise."""
    draws = torch.randn(images.shape, generator=noise.generator(0, "noised")).to(images.device)
    return to_bytes(in_unit_range(images) + NOISE * draws)


CONTROLS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": turned,
    "mirrored": mirrored,
    "with-a-hole": with_a_hole,
    "blended": blended,
    "blurred": blurred,
    "noised": noised,
}
