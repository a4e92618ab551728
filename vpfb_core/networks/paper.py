"""The U-Net of the experiments of Loo et al. 2025 (arXiv 2504.16262), for comparison.

This is the network of Dhariwal and Nichol 2021 (arXiv 2105.05233) with the sizes that Loo et al. give for CIFAR-10: 128
channels, multipliers 2, 2, 2, four blocks per resolution, each with its own skip connection, attention at 16×16, about
55 million parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.blocks import Block, Stage, enlarge, norm_silu, zero
from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.networks.network import ImageNetwork, level_sizes


class PaperUNet(ImageNetwork):
    """u (N, C, H, W), level (N,) or None, condition (N, G) or None → an image shaped like u.

    Args:
        channels, size, widths, dropout, classes: as for `UNet`.
        blocks: residual blocks per resolution of the downsampling path; one more in the upsampling path.
        attention: sizes (H of a feature map) at which every block is followed by self-attention.
        stem: channels of the first convolution; the embedding has four times as many.
    """

    name = "paper-unet"

    def __init__(
        self,
        channels: int,
        size: int,
        widths: Sequence[int] = (256, 256, 256),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        classes: Sequence[int] = (),
        stem: int = 128,
    ) -> None:
        super().__init__()
        embedding = 4 * stem
        sizes = level_sizes(size, len(widths))
        self.embedding = ConditionEmbedding(embedding, classes)
        self.first = Conv2d(channels, stem, 3, padding=1)

        skips = [stem]  # channels of the feature maps that the upsampling path receives
        self.down, self.downsamples = nn.ModuleList(), nn.ModuleList()
        for width, level_size in zip(widths, sizes, strict=True):
            if level_size != size:
                self.downsamples.append(Conv2d(skips[-1], skips[-1], 3, stride=2, padding=1))
                skips.append(skips[-1])
            attend = level_size in attention
            inputs = [skips[-1]] + [width] * (blocks - 1)
            self.down.append(Stage(Block(channels, width, embedding, dropout, attend) for channels in inputs))
            skips += [width] * blocks
        self.middle = Stage(Block(skips[-1], skips[-1], embedding, dropout, attend=first) for first in (True, False))
        self.up, self.upsamples = nn.ModuleList(), nn.ModuleList()
        below = skips[-1]
        for width, level_size in zip(reversed(widths), reversed(sizes), strict=True):
            if level_size != sizes[-1]:
                self.upsamples.append(Conv2d(below, below, 3, padding=1))
            attend = level_size in attention
            inputs = [features + skips.pop() for features in [below] + [width] * blocks]
            self.up.append(Stage(Block(channels, width, embedding, dropout, attend) for channels in inputs))
            below = width
        self.last_norm = norm_silu(below)
        self.last = Conv2d(below, channels, 3, padding=1)
        zero(self.last)

    @property
    def feature_layer(self) -> nn.Module:
        """The blocks at the coarsest resolution."""
        return self.middle

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        embedding = F.silu(self.embedding(u, level, condition))
        skips = [self.first(u)]
        for downsample, stage in zip([None, *self.downsamples], self.down, strict=True):
            if downsample is not None:
                skips.append(downsample(skips[-1]))
            for block in cast(Stage, stage):
                skips.append(block(skips[-1], embedding))
        features = self.middle(skips[-1], embedding)
        for upsample, stage in zip([None, *self.upsamples], self.up, strict=True):
            if upsample is not None:
                features = upsample(enlarge(features, skips[-1]))
            for block in cast(Stage, stage):
                features = block(torch.cat([features, skips.pop()], dim=1), embedding)
        return self.last(self.last_norm(features))
