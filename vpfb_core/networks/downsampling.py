"""The downsampling path that the networks for square images share: features at each resolution, from fine to coarse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.errors import ConfigError
from vpfb_core.networks.blocks import Block, Stage, to_patches
from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.networks.network import ImageNetwork, ImageNetworkSettings, level_sizes
from vpfb_core.settings import setting


@dataclass(frozen=True)
class DownsamplingSettings(ImageNetworkSettings):
    """The settings of a network with a downsampling path."""

    position_embedding: bool | None = setting(None, help="Learn a map that is added to the first features.")
    patch: int | None = setting(None, help="Pixels per side that the network treats as one.", low=1, high=16)
    prototypes: bool | None = setting(None, help="Learn one image per class, which the network receives.")


class Downsampling(ImageNetwork):
    """The downsampling path of a network: residual blocks with group norm at each resolution.

    The embedding of (level, condition) enters each block as a scale and a shift. A training step may differentiate the
    network twice, so the expensive parts are kept small: resolutions are joined by average pooling. At equal training
    time this was better than strided convolutions.

    Any image size works: an odd size is rounded up when it is halved.

    Args:
        channels: C of the images.
        size: H = W of the images.
        widths: channels at each resolution; each resolution after the first has half the size of the one before.
        blocks: residual blocks per resolution, on each path.
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

    Settings = DownsamplingSettings

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
        self.patch, self.patch_channels = patch, channels * patch**2
        sizes, embedding = level_sizes(size, len(widths), patch), 4 * widths[0]
        self.embedding = ConditionEmbedding(embedding, classes)
        self.first = Conv2d(self.patch_channels, widths[0], 3, padding=1)
        place = nn.Parameter(torch.zeros(1, widths[0], sizes[0], sizes[0])) if position_embedding else None
        self.register_parameter("place", place)
        image = (self.patch_channels, sizes[0], sizes[0])
        self.prototypes = Prototypes(classes, image, widths[0], embedding) if prototypes else None

        def stage(inputs: int, outputs: int, level_size: int) -> Stage:
            return Stage.of(inputs, outputs, blocks, embedding, dropout, attend=level_size in attention)

        self.down = nn.ModuleList(map(stage, [widths[0], *widths[:-1]], widths, sizes))
        self.middle = Block(widths[-1], widths[-1], embedding, dropout, attend=sizes[-1] in attention)
        self.add_outputs(widths, sizes, embedding, stage)

    def add_outputs(
        self, widths: Sequence[int], sizes: Sequence[int], embedding: int, stage: Callable[[int, int, int], Stage]
    ) -> None:
        """Add the layers that make an image of the features.

        Args:
            widths, sizes: channels and H of the features at each resolution, the finest first.
            embedding: the length of the embedding.
            stage: makes the blocks of one resolution from the channels of their input and output and from its H.
        """
        raise NotImplementedError

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
            raise ConfigError("prototypes need classes, and this run has none", hint="use `conditional`")

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

    def downsample(self, u: Tensor, level: Tensor | None, condition: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The embedding (N, E), and the features of each resolution, (N, width, H, W), the finest first."""
        embedding = F.silu(self.embedding(u, level, condition))
        features = self.first(to_patches(u, self.patch))
        if self.place is not None:
            features = features + self.place.to(features.dtype)
        if self.prototypes is not None and condition is not None:
            features = features + self.prototypes(condition, embedding)
        found = [self.down[0](features, embedding)]
        for stage in self.down[1:]:
            found.append(stage(F.avg_pool2d(found[-1], 2, ceil_mode=True), embedding))
        found[-1] = self.middle(found[-1], embedding)
        return embedding, found


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
