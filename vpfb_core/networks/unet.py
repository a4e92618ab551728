"""A U-Net for square images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from vpfb_core.networks.blocks import Stage, enlarge, from_patches, norm_silu, zero
from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.downsampling import Downsampling


class UNet(Downsampling):
    """u (N, C, H, W), level (N,) or None, condition (N, G) or None → an image shaped like u.

    The upsampling path has as many blocks. Resolutions are joined by a 1×1 convolution, and skip connections are
    added instead of concatenated, which at equal training time was better. An odd size is cut back to the size of its
    skip connection. The last layer starts at zero. Arguments are those of `Downsampling`.
    """

    name = "unet"

    def add_outputs(
        self, widths: Sequence[int], sizes: Sequence[int], embedding: int, stage: Callable[[int, int, int], Stage]
    ) -> None:
        del embedding
        rising = list(reversed(widths))
        self.narrow = nn.ModuleList(Conv2d(wide, width, 1) for wide, width in pairwise(rising))
        self.up = nn.ModuleList(map(stage, rising[1:], rising[1:], reversed(sizes[:-1])))
        self.last_norm = norm_silu(widths[0])
        self.last = Conv2d(widths[0], self.patch_channels, 3, padding=1)
        zero(self.last)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        embedding, skips = self.downsample(u, level, condition)
        features = skips.pop()
        for narrow, stage in zip(self.narrow, self.up, strict=True):
            skip = skips.pop()
            features = stage(enlarge(narrow(features), skip) + skip, embedding)
        return from_patches(self.last(self.last_norm(features)), self.patch, u)
