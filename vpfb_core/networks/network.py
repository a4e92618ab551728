"""What every network states of itself: its settings and their defaults, for which data it is, what features it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from vpfb_core.errors import ConfigError
from vpfb_core.settings import Settings, setting


class Network(nn.Module):
    """A network, forward(u (N, ...), level (N,) or None, condition (N, G) or None)."""

    name: ClassVar[str]
    Settings: ClassVar[type[Settings]]

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Values for all settings, for data of this shape with this many classes in each condition group.

        Args:
            preset: values of the preset, of which a network takes those that it has.
            asked: values that were asked for, on which others may depend.
        """
        raise NotImplementedError

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        """Refuse settings that do not fit the data. Raises ConfigError with what to change."""
        raise NotImplementedError

    @classmethod
    def describe(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> dict[str, Any]:
        """The network as `networks.build` reads it, JSON values."""
        raise NotImplementedError

    @property
    def feature_layer(self) -> nn.Module | None:
        """The layer whose output describes a datum, (N, channels, h, w); None without one."""
        return None


@dataclass(frozen=True)
class ImageNetworkSettings(Settings):
    """The settings of networks for square images that halve the image from level to level."""

    widths: tuple[int, ...] | None = setting(None, help="Channels at each resolution; each halves the one before.")
    blocks: int | None = setting(None, help="Residual blocks per resolution.", low=1, high=16)
    attention: tuple[int, ...] | None = setting(None, help="Sizes of the feature maps that get self-attention.")
    dropout: float | None = setting(None, help="Dropout probability in the residual blocks.", low=0, high=0.9)


class ImageNetwork(Network):
    """A network for square images (C, S, S) that halves the image from resolution to resolution."""

    Settings: ClassVar[type[Settings]] = ImageNetworkSettings

    @classmethod
    def defaults(
        cls, shape: tuple[int, ...], classes: tuple[int, ...], preset: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        del classes
        chosen: dict[str, Any] = {"blocks": 1, "attention": 0, "dropout": 0.0, **preset}
        sizes = cls.sizes(shape, asked.get("widths") or chosen["widths"], {**chosen, **asked})
        # A preset says up to which size a feature map is to have attention: the first that small gets it.
        chosen["attention"] = next(((size,) for size in sizes if size <= chosen["attention"]), ())
        return {name: value for name, value in chosen.items() if name in cls.Settings.names()}

    @classmethod
    def sizes(cls, shape: tuple[int, ...], widths: tuple[int, ...], settings: Mapping[str, Any]) -> list[int]:
        """H of the feature maps at each resolution."""
        return level_sizes(shape[-1], len(widths), settings.get("patch") or 1)

    @classmethod
    def check(cls, settings: Any, shape: tuple[int, ...], classes: tuple[int, ...]) -> None:
        del classes
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(f"the network {cls.name} takes square images, not data of shape {shape}")
        if not settings.widths:
            raise ConfigError("widths = []: a network has at least one resolution", hint="--set widths=[32,64]")
        sizes, halvings = cls.sizes(shape, settings.widths, settings.to_dict()), len(settings.widths) - 1
        if sizes[0] < 2**halvings:
            patch = settings.to_dict().get("patch") or 1
            unit = "pixels" if patch == 1 else f"patches of {patch}x{patch} pixels"
            raise ConfigError(
                f"images of {sizes[0]}x{sizes[0]} {unit} cannot be halved {halvings} times",
                hint="use fewer resolutions: --set widths",
            )
        if unused := set(settings.attention or ()) - set(sizes):
            raise ConfigError(
                f"attention at {sorted(unused)}, but the feature maps have sizes {sizes}",
                hint="name sizes of feature maps: --set attention=[8]",
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
    """H of the feature maps at each resolution, halved upwards; of the first, in patches."""
    sizes = [-(-size // patch)]
    for _ in range(levels - 1):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes
