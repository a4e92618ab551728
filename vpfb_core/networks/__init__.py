"""Neural networks, forward(u, level=None, condition=None) → the shape of u, or one scalar per sample.

u is the input (N, ...). `level` (N,) is a bounded number that says how noisy u is, as the training method defines it;
None for a time-free field. `condition` (N, G) is the class index in each condition group, -1 for none; None for none in
every group.

The initial weights of a class such as `MLP` come from torch's global generator, as those of any `nn.Module`, so that
`torch.manual_seed` fixes them. `build` takes a seed instead, and leaves the global generator as it was.
"""

from vpfb_core.networks.build import build, find, require_shape, shapes_only
from vpfb_core.networks.encoder import Encoder
from vpfb_core.networks.mlp import MLP
from vpfb_core.networks.paper import PaperUNet
from vpfb_core.networks.unet import UNet

__all__ = ["MLP", "Encoder", "PaperUNet", "UNet", "build", "find", "require_shape", "shapes_only"]
