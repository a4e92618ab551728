"""Networks: they map (u, φ, condition) to the shape of u, or to a scalar a sample."""

from vpfb_core.networks.build import build
from vpfb_core.networks.mlp import MLP
from vpfb_core.networks.paper import PaperUNet
from vpfb_core.networks.unet import UNet

__all__ = ["MLP", "PaperUNet", "UNet", "build"]
