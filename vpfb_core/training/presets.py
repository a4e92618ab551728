"""Sizes of network and run that fit the pictures and the machine."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import torch

from vpfb_core import methods
from vpfb_core.config import TrainConfig
from vpfb_core.data import Source
from vpfb_core.errors import ConfigError
from vpfb_core.machine.launch import place
from vpfb_core.methods.base import DataShape, Method
from vpfb_core.networks.unet import level_sizes

# batch_size counts images; each is drawn with ε and with −ε, so a step evaluates twice as many points. `attention` is
# the largest feature map that gets it: 16 is the level of 16×16 pixels in a picture of 32, of 14×14 in one of 28.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (32, 64), "batch_size": 32, "lr": 5e-3, "steps": 5_000},
    "small": {
        "widths": (48, 96, 128), "patch": 2, "prototypes": True, "batch_size": 32, "lr": 5e-3, "steps": 20_000,
    },
    "base": {
        "widths": (128, 192, 256), "blocks": 2, "attention": 16, "prototypes": True,
        "batch_size": 128, "lr": 5e-4, "steps": 200_000,
    },
    "paper": {
        "network": "paper-unet", "widths": (256, 256, 256), "blocks": 4, "attention": 16, "dropout": 0.1,
        "batch_size": 64, "lr": 2e-4, "warmup": 5_000, "steps": 400_000,
    },
    "celeba64": {
        "network": "paper-unet", "widths": (128, 256, 256, 256), "blocks": 2, "attention": 16, "dropout": 0.1,
        "batch_size": 64, "lr": 2e-4, "warmup": 5_000, "steps": 400_000,
    },
}  # fmt: skip
COMMON: dict[str, Any] = {
    "network": "unet", "patch": 1, "blocks": 1, "attention": 0, "dropout": 0.0, "prototypes": False, "warmup": 100,
}  # fmt: skip
CPU_TIME_BUDGET = 15 * 60.0
# Largest side that is chosen for a folder of large pictures.
MAX_SIZE = {"cpu": 32, "mps": 64, "cuda": 64}
# `--compile auto`: where there are so many steps, or seconds, that the minutes of compiling come back.
LONG_STEPS, LONG_SECONDS = 10_000, 30 * 60.0


def resolve(config: TrainConfig, images: Source, device: torch.device) -> TrainConfig:
    """The configuration with everything chosen that was left open.

    Raises:
        ConfigError: settings that contradict each other or the data.
    """
    size = images.shape[-1]
    name = config.preset or choose_preset(size, device)
    chosen: dict[str, Any] = {"preset": name, "size": size, "channels": images.shape[0]}
    preset = COMMON | PRESETS[name]
    is_unet = (config.network or preset["network"]) == "unet"
    preset["position_embedding"] = is_unet
    preset["prototypes"] = preset["prototypes"] and is_unet and bool(images.groups)
    preset["patch"] = preset["patch"] if is_unet else 1
    widths, patch = config.widths or preset["widths"], config.patch or preset["patch"]
    preset["attention"] = _attended(level_sizes(size, len(widths), patch), preset["attention"])
    method = methods.find(config.method)
    preset |= method.defaults(data_shape(images), config.to_dict())
    if config.steps is not None or config.time_budget is not None:
        preset.pop("steps")
    elif device.type == "cpu":
        preset["time_budget"] = CPU_TIME_BUDGET
    chosen |= {setting: value for setting, value in preset.items() if getattr(config, setting) is None}
    if config.augment == "auto":
        chosen["augment"] = "flip" if images.flips else "none"
    if config.precision is None:
        chosen["precision"] = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if config.threads is None:
        chosen["threads"] = torch.get_num_threads()
    if config.workers is None:
        chosen["workers"] = max(1, (os.cpu_count() or 1) // place().local_count)
    resolved = config.replace(device=str(device), **chosen)
    share = -(-(resolved.batch_size or 1) // place().count)  # of the largest process
    resolved = resolved.replace(micro_batch=min(share, resolved.micro_batch or share))
    if resolved.compile == "auto":
        pays = method_of(resolved, images).compilable and pays_to_compile(resolved, device)
        resolved = resolved.replace(compile="on" if pays else "off")
    _check(resolved, images, share)
    return resolved


def data_shape(images: Source) -> DataShape:
    """What a method knows of the data."""
    return DataShape(tuple(images.shape), tuple(len(group.classes) for group in images.groups))


def method_of(config: TrainConfig, images: Source) -> Method:
    """The method of a resolved configuration.

    Raises:
        ConfigError: its settings do not fit the data or the run.
    """
    kind = methods.find(config.method)
    settings = {name: value for name, value in config.to_dict().items() if name in kind.Settings.names()}
    method = methods.build(kind.name, settings)
    method.check(data_shape(images), decay=config.decay, processes=place().count)
    return method


def choose_preset(size: int, device: torch.device) -> str:
    """The preset for images of `size` pixels a side on this kind of device."""
    if size <= 16:
        return "tiny"
    if device.type != "cuda":
        return "small"
    return "base" if size <= 48 else "celeba64"


def pays_to_compile(config: TrainConfig, device: torch.device) -> bool:
    """On a GPU whose compiler is there, in a long run; on a CPU compiling takes as long as a run and gains little."""
    long = (config.steps or 0) >= LONG_STEPS if config.time_budget is None else config.time_budget >= LONG_SECONDS
    tools = find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
    return device.type == "cuda" and long and tools


def _attended(sizes: list[int], largest: int) -> tuple[int, ...]:
    """The first of the levels' sizes that is at most `largest`; () for 0."""
    return next(((size,) for size in sizes if size <= largest), ())


def network_description(config: TrainConfig, images: Source) -> dict[str, Any]:
    """The network of a resolved configuration, as `networks.build` reads it."""
    description: dict[str, Any] = {
        "name": config.network,
        "channels": config.channels,
        "size": config.size,
        "widths": list(config.widths or ()),
        "blocks": config.blocks,
        "attention": list(config.attention or ()),
        "dropout": config.dropout,
        "classes": [len(group.classes) for group in images.groups],
    }
    if config.position_embedding:
        description["position_embedding"] = True
    if config.patch and config.patch > 1:
        description["patch"] = config.patch
    if config.prototypes:
        description["prototypes"] = True
    return description


def _check(config: TrainConfig, images: Source, share: int) -> None:
    patch, levels = config.patch or 1, len(config.widths or ())
    sizes = level_sizes(config.size or 0, levels, patch)
    if sizes[0] < 2 ** (levels - 1):
        patches = "pixels" if patch == 1 else f"patches of {patch}×{patch} pixels"
        raise ConfigError(
            f"images of {sizes[0]}×{sizes[0]} {patches} cannot be halved {levels - 1} times",
            hint="use fewer levels: --set widths",
        )
    if unused := set(config.attention or ()) - set(sizes):
        raise ConfigError(
            f"attention at {sorted(unused)}, but the levels have {sizes} pixels",
            hint="name sizes of levels: --set attention=[8]",
        )
    if config.position_embedding and config.network != "unet":
        raise ConfigError(f"the network {config.network} has no position embedding", hint="--set network=unet")
    if config.prototypes and config.network != "unet":
        raise ConfigError(f"the network {config.network} has no prototypes", hint="--set network=unet")
    if config.prototypes and not images.groups:
        raise ConfigError("prototypes are of classes, and this run has none", hint="use --conditional")
    if patch > 1 and config.network != "unet":
        raise ConfigError(f"the network {config.network} takes no patches", hint="--set network=unet")
    if not method_of(config, images).divisible and (config.micro_batch or 1) < share:
        raise ConfigError(
            "this objective takes its statistics over the whole batch, which cannot be divided",
            hint="use a smaller --batch-size and no micro_batch",
        )
    if (config.batch_size or 1) < place().count:
        raise ConfigError(
            f"a batch of {config.batch_size} images cannot be shared by {place().count} processes",
            hint="--batch-size is that of all processes together",
        )
    if config.device.startswith("mps") and config.precision == "bf16":
        raise ConfigError("bf16 is not supported on mps here", hint="use --precision fp32")
    if config.augment == "flip" and not images.flips:
        raise ConfigError(f"pictures of {images.name!r} are not themselves when flipped", hint="use --augment none")
