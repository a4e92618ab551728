"""The interface of a network: its settings and their defaults, the data that it takes, and its feature layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from vpfb_core.errors import ConfigError
from vpfb_core.settings import Settings, setting


class Network(nn.Module):
    """A network, forward(u, level=None, condition=None) → a tensor shaped like u, or one scalar per sample, (N,).

    A new network is a file with a subclass of this class, and a row in `names.NETWORKS`.

    Attributes:
        name: the name of the network on the command line and in descriptions.
        Settings: the class of its settings. A setting that is None is chosen from the data and the preset.
        scalar: whether it returns one number per sample. Not every method can train such a network.
    """

    name: ClassVar[str]
    scalar: ClassVar[bool] = False
    Settings: ClassVar[type[Settings]]

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Default values of all settings.

        Args:
            shape: the shape of a datum, (C, H, W) or (d,).
            classes: the number of classes in each condition group.
            preset: the values of the preset, which override those of the network. It may contain other names as well.
            asked: the values that the user chose, on which other defaults may depend.
        """
        raise NotImplementedError

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        """Check that settings fit the data. Other arguments are those of `defaults`.

        Args:
            settings: an instance of the class's `Settings` without None.
        Raises:
            ConfigError: they do not fit; the hint says what to change.
        """
        raise NotImplementedError

    @classmethod
    def describe(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> dict[str, Any]:
        """The description for `networks.build`, as JSON values. Arguments are those of `check`."""
        raise NotImplementedError

    @property
    def feature_layer(self) -> nn.Module | None:
        """The layer whose output (N, channels, h, w) is read as features of a datum; None if there is none."""
        return None


@dataclass(frozen=True)
class ImageNetworkSettings(Settings):
    """The settings of networks for square images that halve the size from resolution to resolution."""

    widths: tuple[int, ...] | None = setting(
        None, help="Channels at each resolution; each has half the size of the one before."
    )
    blocks: int | None = setting(None, help="Residual blocks per resolution.", low=1, high=16)
    attention: tuple[int, ...] | None = setting(None, help="Sizes of the feature maps that get self-attention.")
    dropout: float | None = setting(None, help="Dropout probability in the residual blocks.", low=0, high=0.9)


class ImageNetwork(Network):
    """A network for square images (C, S, S) that halves the size from resolution to resolution."""

    Settings: ClassVar[type[Settings]] = ImageNetworkSettings

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        del classes
        own = {name: value for name, value in preset.items() if name in cls.Settings.names()}
        chosen: dict[str, Any] = {"widths": (32, 64), "blocks": 1, "attention": 0, "dropout": 0.0, **own}
        widths, patch = asked.get("widths") or chosen["widths"], asked.get("patch") or chosen.get("patch", 1)
        sizes = level_sizes(shape[-1], len(widths), patch)
        # A preset gives the largest size of a feature map with attention; the first map that small has it.
        chosen["attention"] = next(((size,) for size in sizes if size <= chosen["attention"]), ())
        return chosen

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        del classes
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(f"the network {cls.name} is for square images, not for data of shape {shape}")
        if not settings.widths:
            raise ConfigError("widths = []: a network needs at least one resolution", hint="`widths=[32,64]`")
        patch, halvings = getattr(settings, "patch", 1), len(settings.widths) - 1
        sizes = level_sizes(shape[-1], len(settings.widths), patch)
        if sizes[0] < 2**halvings:
            unit = "pixels" if patch == 1 else f"patches of {patch}x{patch} pixels"
            raise ConfigError(
                f"images of {sizes[0]}x{sizes[0]} {unit} cannot be halved {halvings} times",
                hint="use fewer resolutions: `widths`",
            )
        if unused := set(settings.attention or ()) - set(sizes):
            raise ConfigError(
                f"attention at {sorted(unused)}, but the feature maps have sizes {sizes}",
                hint=f"choose sizes of feature maps, for example `attention=[{sizes[-1]}]`",
            )

    @classmethod
    def describe(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> dict[str, Any]:
        return {
            "name": cls.name,
            "channels": shape[0],
            "size": shape[-1],
            "widths": list(settings.widths),
            "blocks": settings.blocks,
            "attention": list(settings.attention),
            "dropout": settings.dropout,
            "classes": list(classes),
        }


def level_sizes(size: int, levels: int, patch: int = 1) -> list[int]:
    """H of the feature maps at each resolution. The first is counted in patches; halving rounds up."""
    sizes = [-(-size // patch)]
    for _ in range(levels - 1):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes
