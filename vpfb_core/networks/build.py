"""Networks from their description, the JSON that configurations and checkpoints keep."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.networks.mlp import MLP
from vpfb_core.networks.network import Network
from vpfb_core.networks.paper import PaperUNet
from vpfb_core.networks.unet import UNet

LARGEST = 2**20  # of any number in a description, such as channels or classes
MOST_LAYERS = 500  # blocks in all levels, or layers
MOST_GROUPS = 2**12  # of conditions

NETWORKS: dict[str, type[Network]] = {network.name: network for network in (UNet, PaperUNet, MLP)}


def find(name: str) -> type[Network]:
    """The network of that name. Raises ConfigError with the names that exist."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name), NETWORKS, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown network {name!r}", hint=f"{meant}networks: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(description: dict[str, Any], seed: int = 0) -> Network:
    """Build a network with initial weights drawn from `seed`; no global generator changes, of whatever device.

    Args:
        description: {"name": "unet", …} with the arguments of the class.
    Raises:
        ConfigError: an unknown name, or arguments that do not fit.
    """
    arguments = dict(description)
    name = arguments.pop("name", None)
    network = find(str(name))
    try:
        _require_bounded(arguments)
        with noise.seeded_global_generator(torch.device("cpu"), seed):
            return network(**arguments)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ConfigError(f"the network {name!r} cannot be built from {arguments}: {error}") from error


def require_shape(description: dict[str, Any], shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
    """ValueError if a description is not of a network for data of this shape, with this many classes in each group."""
    if len(shape) == 3:
        channels, height, width = shape
        if description.get("channels") != channels or not description.get("size") == height == width:
            raise ValueError(f"images of {shape} are not those of its network")
    elif description.get("dim") != shape[0]:
        raise ValueError(f"data of {shape[0]} numbers are not those of its network")
    if list(description.get("classes", ())) != list(classes):
        raise ValueError(f"groups of {list(classes)} classes are not those of its network")


def _require_bounded(arguments: dict[str, Any]) -> None:
    """Nothing is larger than any network that is meant: a description can come with a file from anywhere."""
    numbers = [value for value in arguments.values() if not isinstance(value, list | tuple)]
    for row in (value for value in arguments.values() if isinstance(value, list | tuple)):
        numbers += row[:MOST_GROUPS]
        if len(row) > MOST_GROUPS:
            raise ValueError(f"{len(row):,} numbers in a row")
    if not all(isinstance(number, int | float) and 0 <= number <= LARGEST for number in numbers):
        raise ValueError(f"numbers lie between 0 and {LARGEST:,}")
    layers = max(arguments.get("depth", 1), arguments.get("blocks", 1) * max(1, len(arguments.get("widths", ()))))
    if layers > MOST_LAYERS:
        raise ValueError(f"{layers:,} layers are more than {MOST_LAYERS:,}")
