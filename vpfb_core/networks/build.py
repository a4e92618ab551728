"""Networks by their names and from their descriptions, the JSON values that model files keep."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vpfb_core import names
from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.machine import noise
from vpfb_core.networks.network import Network
from vpfb_core.settings import shown

LARGEST = 2**20  # the largest value of a number in a description, such as channels or classes
MOST_LAYERS = 500  # the largest number of layers, or of blocks at all resolutions
MOST_GROUPS = 2**12  # the largest number of condition groups


def find(name: str) -> type[Network]:
    """The class of the network of that name.

    Raises:
        ConfigError: there is no such network; the hint suggests the nearest one.
    """
    if name not in names.NETWORKS:
        hint = f"{did_you_mean(name, names.NETWORKS)}networks: {', '.join(names.NETWORKS)}"
        raise ConfigError(f"unknown network {shown(name)}", hint=hint)
    module, _, attribute = names.NETWORKS[name].partition(":")
    network: type[Network] = getattr(importlib.import_module(module), attribute)
    return network


def build(description: dict[str, Any], seed: int = 0) -> Network:
    """A network with initial weights. No global generator is changed.

    Args:
        description: the name of the network and the arguments of its class, {"name": "unet", …}.
        seed: the seed of the initial weights.
    Raises:
        ConfigError: the name is unknown, or the arguments do not fit.
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


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Inside this context, networks are built with the shapes of their weights, but without memory or values."""
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    """Leaves out the functions of `torch.nn.init`. For a meta tensor, some of them load torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def require_shape(description: dict[str, Any], shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
    """Check that a description is that of a network for these data.

    Args:
        description: the description of a network.
        shape: the shape of a datum.
        classes: the number of classes in each condition group.
    Raises:
        ValueError: the network is for other data.
    """
    if len(shape) == 3:
        channels, height, width = shape
        if description.get("channels") != channels or not description.get("size") == height == width:
            raise ValueError(f"its network is not for images of shape {shape}")
    elif description.get("dim") != shape[0]:
        raise ValueError(f"its network is not for vectors of {shape[0]} numbers")
    if list(description.get("classes", ())) != list(classes):
        raise ValueError(f"its network is not for condition groups of {list(classes)} classes")


def _require_bounded(arguments: dict[str, Any]) -> None:
    """Refuse sizes that no real network has. A file from an unknown source may contain any description."""
    numbers = [value for value in arguments.values() if not isinstance(value, list | tuple)]
    for row in (value for value in arguments.values() if isinstance(value, list | tuple)):
        numbers += row[:MOST_GROUPS]
        if len(row) > MOST_GROUPS:
            raise ValueError(f"a list of {len(row):,} numbers is longer than {MOST_GROUPS:,}")
    if not all(isinstance(number, int | float) and 0 <= number <= LARGEST for number in numbers):
        raise ValueError(f"its numbers must be between 0 and {LARGEST:,}")
    layers = max(arguments.get("depth", 1), arguments.get("blocks", 1) * max(1, len(arguments.get("widths", ()))))
    if layers > MOST_LAYERS:
        raise ValueError(f"{layers:,} layers are more than {MOST_LAYERS:,}")
