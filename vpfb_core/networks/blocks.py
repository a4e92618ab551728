"""Layers of networks for images: residual blocks, self-attention, patches, and changes of resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.normalization import NormSiLU

HEAD_WIDTH = 32  # channels per head of attention


class Stage(nn.ModuleList):
    """The residual blocks of one resolution, applied in turn."""

    @classmethod
    def of(cls, inputs: int, outputs: int, blocks: int, embedding: int, dropout: float, attend: bool) -> Stage:
        """Equal blocks, of which the first changes the number of channels."""
        widths = [inputs] + [outputs] * (blocks - 1)
        return cls(Block(width, outputs, embedding, dropout, attend) for width in widths)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            features = block(features, embedding)
        return features


class Block(nn.Module):
    """A residual block, (N, inputs, H, W) → (N, outputs, H, W), followed by self-attention if `attend`."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, attend: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm_silu(inputs), Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = norm_silu(outputs), Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if inputs == outputs else Conv2d(inputs, outputs, 1)
        self.attention = Attention(outputs) if attend else nn.Identity()
        zero(self.conv2)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        hidden = self.norm2(self.conv1(self.norm1(features)), scale, shift)
        hidden = self.conv2(self.dropout(hidden))
        return self.attention(self.skip(features) + hidden)


class Attention(nn.Module):
    """Self-attention over positions, added to its input, (N, C, H, W) → the same shape.

    It is written out, because the fused attention kernels have no second derivative.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = divisor(channels, channels // HEAD_WIDTH)
        self.norm = nn.GroupNorm(norm_groups(channels), channels)
        self.qkv, self.out = Conv2d(channels, 3 * channels, 1), Conv2d(channels, channels, 1)
        zero(self.out)

    def forward(self, features: Tensor) -> Tensor:
        n, channels, height, width = features.shape
        query, key, value = self.qkv(self.norm(features)).reshape(n, 3, self.heads, -1, height * width).unbind(1)
        weights = torch.softmax(query.transpose(-1, -2) @ key * query.shape[-2] ** -0.5, dim=-1)
        mixed = (value @ weights.transpose(-1, -2)).reshape(n, channels, height, width)
        return features + self.out(mixed)


def to_patches(images: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) → (N, C·patch², ⌈H/patch⌉, ⌈W/patch⌉): the pixels of a patch become channels of one pixel."""
    if patch == 1:
        return images
    height, width = images.shape[-2:]
    return F.pixel_unshuffle(F.pad(images, (0, -width % patch, 0, -height % patch)), patch)


def from_patches(patches: Tensor, patch: int, like: Tensor) -> Tensor:
    """Undo `to_patches`, cut to the size of `like`."""
    if patch == 1:
        return patches
    height, width = like.shape[-2:]
    return F.pixel_shuffle(patches, patch)[..., :height, :width]


def enlarge(features: Tensor, like: Tensor) -> Tensor:
    """(N, C, h, w) → (N, C, H, W), the size of `like`, by repeating values."""
    return F.interpolate(features, size=like.shape[-2:], mode="nearest")


def norm_silu(channels: int) -> NormSiLU:
    """Group norm with about eight channels per group, and SiLU."""
    return NormSiLU(norm_groups(channels), channels)


def norm_groups(channels: int) -> int:
    """Number of groups of about eight channels."""
    return divisor(channels, channels // 8)


def divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, at least 1."""
    return next(candidate for candidate in range(max(1, limit), 0, -1) if number % candidate == 0)


def zero(layer: nn.Conv2d) -> None:
    """Set all parameters of a layer to zero, so that it starts without effect."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
