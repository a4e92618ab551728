"""Networks from their description, the JSON that configurations and checkpoints keep."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vpfb_core.errors import ConfigError
from vpfb_core.networks.mlp import MLP
from vpfb_core.networks.paper import PaperUNet
from vpfb_core.networks.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "paper-unet": PaperUNet, "mlp": MLP}


def build(description: dict[str, Any], seed: int = 0) -> nn.Module:
    """A network with weights drawn from `seed`; the global generator is left as it was.

    Args:
        description: {"name": "unet", …} with the arguments of the class.
    Raises:
        ConfigError: an unknown name, or arguments that do not fit.
    """
    arguments = dict(description)
    name = arguments.pop("name", None)
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}", hint=f"networks: {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return NETWORKS[name](**arguments)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ConfigError(f"the network {name!r} cannot be built from {arguments}: {error}") from error
