"""A decoder from codes to data, together with an energy of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.errors import ConfigError
from vpfb_core.networks.network import Network
from vpfb_core.settings import Settings, setting

# The default numbers per code and units per layer, by the largest number of values per datum.
SIZES = {16: (8, 64), 256: (8, 192), math.inf: (16, 512)}


@dataclass(frozen=True)
class DecoderSettings(Settings):
    """The settings of `Decoder`."""

    codes: int | None = setting(None, help="Numbers per code.", low=1, high=1024)
    width: int | None = setting(None, help="Units in each hidden layer.", low=1, high=2**16)
    depth: int | None = setting(None, help="Hidden layers.", low=1, high=64)


class Decoder(Network):
    """Two multilayer perceptrons: `decode` maps codes to data, and `forward` maps data to one number, (N,).

    The activations are smooth, because Markov chains follow their gradients. `forward` is zero at first.

    Args:
        codes: k, numbers per code.
        width: units in each hidden layer.
        depth: hidden layers.
        channels, size: of images (C, S, S).
        dim: the number of components of vectors, in place of channels and size.
        classes: must be empty.
    """

    name = "decoder"
    scalar = True
    Settings = DecoderSettings

    def __init__(
        self,
        codes: int,
        width: int = 192,
        depth: int = 2,
        channels: int = 0,
        size: int = 0,
        dim: int = 0,
        classes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if classes:
            raise ValueError("the network decoder takes no classes")
        self.codes = codes
        self.shape = (dim,) if dim else (channels, size, size)
        values = math.prod(self.shape)
        self.generator = _perceptron(codes, width, depth, values)
        self.tilt = _perceptron(values, width, depth, 1, bias=False)
        for weight in self.tilt[-1].parameters():
            nn.init.zeros_(weight)
        self.code_layer = nn.Identity()

    def decode(self, z: Tensor) -> Tensor:
        """The data of codes z (N, k), (N, d) with flattened values."""
        decoded: Tensor = self.generator(z)
        return decoded

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        if level is not None or condition is not None:
            raise ConfigError("the network decoder takes no noise level and no classes", hint="use another network")
        return torch.squeeze(self.tilt(u.flatten(1)), 1)

    @property
    def feature_layer(self) -> nn.Module:
        """The layer through which the codes of data pass, (N, k, 1)."""
        return self.code_layer

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        del classes, preset, asked
        values = math.prod(shape)
        codes, width = next(chosen for most, chosen in SIZES.items() if values <= most)
        return {"codes": min(values, codes), "width": width, "depth": 2}

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        del settings
        if len(shape) == 3 and shape[1] != shape[2]:
            raise ConfigError(f"the network {cls.name} is for square images or vectors, not for data of shape {shape}")
        if classes:
            raise ConfigError(f"the network {cls.name} takes no classes", hint="leave out `conditional`")

    @classmethod
    def describe(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> dict[str, Any]:
        data = {"dim": shape[0]} if len(shape) == 1 else {"channels": shape[0], "size": shape[-1]}
        return {
            "name": cls.name, **data, "codes": settings.codes, "width": settings.width, "depth": settings.depth,
            "classes": list(classes),
        }  # fmt: skip


def _perceptron(inputs: int, width: int, depth: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    sizes = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs, bias=bias))
