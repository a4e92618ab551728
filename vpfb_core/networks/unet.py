"""A U-Net for square images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.errors import ConfigError
from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.networks.network import ImageNetwork, ImageNetworkSettings, level_sizes
from vpfb_core.networks.normalization import NormSiLU
from vpfb_core.settings import setting


@dataclass(frozen=True)
class UNetSettings(ImageNetworkSettings):
    """The settings of `UNet`."""

    position_embedding: bool | None = setting(None, help="Learn a map that is added to the first features.")
    patch: int | None = setting(None, help="Pixels per side that the network treats as one.", low=1, high=16)
    prototypes: bool | None = setting(None, help="Learn one image per class, which the network receives.")


class UNet(ImageNetwork):
    """u (N, C, H, W), level (N,) or None, condition (N, G) or None → an image shaped like u.

    Residual blocks with group norm. The embedding of (level, condition) enters each block as a scale and a shift. The
    last layer starts at zero. A training step may differentiate the network twice, so the expensive parts are kept
    small: resolutions are joined by average pooling and by a 1×1 convolution, and skip connections are added instead of
    concatenated. At equal training time this was better than strided convolutions and concatenation.

    Any image size works: an odd size is rounded up when it is halved, and cut back to the size of its skip connection.

    Args:
        channels: C of the images.
        size: H = W of the images.
        widths: channels at each resolution; each resolution after the first has half the size of the one before.
        blocks: residual blocks per resolution, on the way down and on the way up.
        attention: sizes (H of a feature map) at which self-attention is added.
        dropout: dropout probability inside the residual blocks.
        classes: number of classes in each condition group.
        position_embedding: add a learned map, the same for every image, to the first features. A convolution detects
            its position only near the border, but from pure noise the best output is the mean image of the data.
        patch: the network treats `patch` × `patch` pixels as one pixel with that many times the channels, on input and
            output. This leaves out the finest resolution, which costs as much as any other. A size that is not a
            multiple of `patch` is padded with zeros.
        prototypes: learn one image per class, which the network receives beside u. From pure noise the best output is
            the mean image of the requested class, which a scale and a shift per channel learn slowly.
    """

    name = "unet"
    Settings = UNetSettings

    def __init__(
        self,
        channels: int,
        size: int,
        widths: Sequence[int] = (32, 64, 64),
        blocks: int = 1,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        classes: Sequence[int] = (),
        position_embedding: bool = False,
        patch: int = 1,
        prototypes: bool = False,
    ) -> None:
        super().__init__()
        if patch < 1:
            raise ValueError(f"patch = {patch}: a patch has at least 1 pixel per side")
        if prototypes and not classes:
            raise ValueError("prototypes need classes, and there are none")
        self.patch = patch
        sizes, channels = level_sizes(size, len(widths), patch), channels * patch**2
        embedding = 4 * widths[0]
        self.embedding = ConditionEmbedding(embedding, classes)
        self.first = Conv2d(channels, widths[0], 3, padding=1)
        place = nn.Parameter(torch.zeros(1, widths[0], sizes[0], sizes[0])) if position_embedding else None
        self.register_parameter("place", place)
        image = (channels, sizes[0], sizes[0])
        self.prototypes = Prototypes(classes, image, widths[0], embedding) if prototypes else None

        def stage(inputs: int, outputs: int, level_size: int) -> Stage:
            widths_in = [inputs] + [outputs] * (blocks - 1)
            attend = level_size in attention
            return Stage(Block(width, outputs, embedding, dropout, attend) for width in widths_in)

        self.down = nn.ModuleList(map(stage, [widths[0], *widths[:-1]], widths, sizes))
        self.middle = Block(widths[-1], widths[-1], embedding, dropout, attend=sizes[-1] in attention)
        rising = list(reversed(widths))
        self.narrow = nn.ModuleList(Conv2d(wide, width, 1) for wide, width in pairwise(rising))
        self.up = nn.ModuleList(map(stage, rising[1:], rising[1:], reversed(sizes[:-1])))
        self.last_norm = norm_silu(widths[0])
        self.last = Conv2d(widths[0], channels, 3, padding=1)
        zero(self.last)

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = {"position_embedding": True, "patch": 1, "prototypes": False, **preset}
        chosen["prototypes"] = chosen["prototypes"] and bool(classes)
        return super().defaults(shape, classes, chosen, asked)

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        super().check(settings, shape, classes)
        if settings.prototypes and not classes:
            raise ConfigError("prototypes need classes, and this run has none", hint="use --conditional")

    @classmethod
    def describe(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> dict[str, Any]:
        description = super().describe(settings, shape, classes)
        if settings.position_embedding:
            description["position_embedding"] = True
        if settings.patch > 1:
            description["patch"] = settings.patch
        if settings.prototypes:
            description["prototypes"] = True
        return description

    @property
    def feature_layer(self) -> nn.Module:
        """The blocks at the coarsest resolution."""
        return self.middle

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        embedding = F.silu(self.embedding(u, level, condition))
        features = self.first(to_patches(u, self.patch))
        if self.place is not None:
            features = features + self.place.to(features.dtype)
        if self.prototypes is not None and condition is not None:
            features = features + self.prototypes(condition, embedding)
        features = self.down[0](features, embedding)
        skips = []
        for stage in self.down[1:]:
            skips.append(features)
            features = stage(F.avg_pool2d(features, 2, ceil_mode=True), embedding)
        features = self.middle(features, embedding)
        for narrow, stage in zip(self.narrow, self.up, strict=True):
            skip = skips.pop()
            features = stage(enlarge(narrow(features), skip) + skip, embedding)
        return from_patches(self.last(self.last_norm(features)), self.patch, u)


class Prototypes(nn.Module):
    """condition (N, G), embedding (N, E) → features (N, width, H, W) of one learned image per class.

    The images start at zero. The images of all groups of a condition are added; "none" (index −1) has no image. The
    embedding scales each channel of the features: near the data, u shows its class and the prototypes only disturb.

    Args:
        classes: number of classes in each condition group.
        shape: (C, H, W) of the images.
        width: channels of the features.
        embedding: E.
    """

    def __init__(self, classes: Sequence[int], shape: tuple[int, int, int], width: int, embedding: int) -> None:
        super().__init__()
        self.shape = shape
        self.images = nn.ModuleList(nn.Embedding(count, math.prod(shape)) for count in classes)
        self.view = Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.gate = nn.Linear(embedding, width)
        for parameter in (*self.images.parameters(), *self.gate.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, condition: Tensor, embedding: Tensor) -> Tensor:
        images = [
            (column >= 0)[:, None] * table(column.clamp(min=0))
            for table, column in zip(self.images, condition.unbind(1), strict=True)
        ]
        features: Tensor = self.view(torch.stack(images).sum(0).reshape(-1, *self.shape))
        return features * (1 + self.gate(embedding))[:, :, None, None]


class Stage(nn.ModuleList):
    """The residual blocks of one resolution, applied in turn."""

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

    def __init__(self, channels: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = divisor(channels, channels // head_width)
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
