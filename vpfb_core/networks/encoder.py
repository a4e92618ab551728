"""A network for square images without an upsampling path, which its gradient has instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.blocks import Stage, from_patches, norm_silu, zero
from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.downsampling import Downsampling


class Encoder(Downsampling):
    """u (N, C, H, W), level (N,) or None, condition (N, G) or None → an image shaped like u.

    The features of each resolution give an image by one linear layer, and the images are added. As the output f of a
    scalar ½‖u − f(u)‖², this is enough: the gradient u − f − Jᵀ(u − f), J being the Jacobian of f, applies the
    transposed layers in reverse order. It is itself a U-Net, whose upsampling path has the weights of the downsampling
    path. A step of training takes about two thirds of the time of one with `UNet`. For a velocity without a potential,
    the upsampling path is missing. Arguments are those of `Downsampling`.
    """

    name = "encoder"

    def add_outputs(
        self, widths: Sequence[int], sizes: Sequence[int], embedding: int, stage: Callable[[int, int, int], Stage]
    ) -> None:
        del sizes, stage
        self.norms = nn.ModuleList(map(norm_silu, widths))
        self.modulations = nn.ModuleList(nn.Linear(embedding, 2 * width) for width in widths)
        heads = [
            Conv2d(width, self.patch_channels * 4**level, 1 if level else 3, padding=0 if level else 1)
            for level, width in enumerate(widths)
        ]
        for head in heads:
            zero(head)
        self.heads = nn.ModuleList(heads)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        embedding, found = self.downsample(u, level, condition)
        height, width = found[0].shape[-2:]
        images = []
        for halvings, (features, norm, modulation, head) in enumerate(
            zip(found, self.norms, self.modulations, self.heads, strict=True)
        ):
            image = head(norm(features, *modulation(embedding).chunk(2, dim=1)))
            images.append(F.pixel_shuffle(image, 2**halvings)[..., :height, :width])
        return from_patches(sum(images[1:], images[0]), self.patch, u)
