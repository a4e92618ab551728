"""Sizes of network and run that fit the pictures and the machine."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import nn

from vpfb_core.config import TrainConfig
from vpfb_core.data import ImageSource
from vpfb_core.errors import ConfigError
from vpfb_core.networks.unet import level_sizes

# batch_size counts images; each is drawn with ε and with −ε, so a step evaluates twice as many points. `attention` is
# the largest feature map that gets it: 16 is the level of 16×16 pixels in a picture of 32, of 14×14 in one of 28.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (32, 64), "batch_size": 32, "lr": 5e-3, "steps": 5_000},
    "small": {"widths": (32, 64, 128), "batch_size": 32, "lr": 5e-3, "steps": 20_000},
    "base": {"widths": (128, 192, 256), "blocks": 2, "attention": 16, "batch_size": 128, "lr": 5e-4, "steps": 200_000},
    "paper": {
        "network": "paper-unet", "widths": (256, 256, 256), "blocks": 4, "attention": 16, "dropout": 0.1,
        "batch_size": 64, "lr": 2e-4, "warmup": 5_000, "steps": 400_000,
    },
    "celeba64": {
        "network": "paper-unet", "widths": (128, 256, 256, 256), "blocks": 2, "attention": 16, "dropout": 0.1,
        "batch_size": 64, "lr": 2e-4, "warmup": 5_000, "steps": 400_000,
    },
}  # fmt: skip
COMMON: dict[str, Any] = {"network": "unet", "blocks": 1, "attention": 0, "dropout": 0.0, "warmup": 100}
CPU_TIME_BUDGET = 15 * 60.0
# Of one group, and of each of several: there `compose` asks for one class with nothing of the other groups, and with a
# half every set of groups is as likely as any other.
CONDITION_DROPOUT = (0.1, 0.5)
# Largest side that is chosen for a folder of large pictures.
MAX_SIZE = {"cpu": 32, "mps": 64, "cuda": 64}
MEMORY_SHARE = 0.8  # of the memory, that a step may take by its estimate


def resolve(config: TrainConfig, images: ImageSource, device: torch.device) -> TrainConfig:
    """The configuration with everything chosen that was left open.

    Raises:
        ConfigError: settings that contradict each other or the data.
    """
    size = images.shape[-1]
    name = config.preset or choose_preset(size, device)
    chosen: dict[str, Any] = {"preset": name, "size": size, "channels": images.shape[0]}
    preset = COMMON | PRESETS[name]
    widths = config.widths or preset["widths"]
    preset["attention"] = _attended(size, len(widths), preset["attention"])
    if config.steps is not None or config.time_budget is not None:
        preset.pop("steps")
    elif device.type == "cpu":
        preset["time_budget"] = CPU_TIME_BUDGET
    chosen |= {setting: value for setting, value in preset.items() if getattr(config, setting) is None}
    if config.augment == "auto":
        chosen["augment"] = "flip" if images.flips else "none"
    if config.precision is None:
        chosen["precision"] = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if config.condition_dropout is None:
        chosen["condition_dropout"] = CONDITION_DROPOUT[len(images.groups) > 1]
    if config.threads is None:
        chosen["threads"] = torch.get_num_threads()
    if config.workers is None:
        chosen["workers"] = os.cpu_count() or 1
    resolved = config.replace(device=str(device), **chosen)
    _check(resolved, images)
    return resolved


def choose_preset(size: int, device: torch.device) -> str:
    """The preset for images of `size` pixels a side on this kind of device."""
    if size <= 16:
        return "tiny"
    if device.type != "cuda":
        return "small"
    return "base" if size <= 48 else "celeba64"


def _attended(size: int, levels: int, largest: int) -> tuple[int, ...]:
    """The size of the first level of at most `largest` pixels a side; () for 0."""
    return next(((level,) for level in level_sizes(size, levels) if level <= largest), ())


def network_description(config: TrainConfig, images: ImageSource) -> dict[str, Any]:
    """The network of a resolved configuration, as `networks.build` reads it."""
    return {
        "name": config.network,
        "channels": config.channels,
        "size": config.size,
        "widths": list(config.widths or ()),
        "blocks": config.blocks,
        "attention": list(config.attention or ()),
        "dropout": config.dropout,
        "classes": [len(group.classes) for group in images.groups],
    }


def estimate_memory(network: nn.Module, config: TrainConfig) -> int:
    """Bytes that a training step needs, about: weights, optimiser and average, and what both derivatives keep.

    What one forward pass keeps is counted by letting one image through; the gradient in u and the derivative of that
    gradient keep about four times as much again.
    """
    kept = 0

    def count(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal kept
        kept += output.numel() * (2 if config.precision == "bf16" else 4)

    hooks = [module.register_forward_hook(count) for module in network.modules() if not list(module.children())]
    network.eval()  # dropout would draw from the global generator
    with torch.no_grad():
        network(torch.zeros(1, config.channels or 1, config.size or 1, config.size or 1), torch.zeros(1))
    for hook in hooks:
        hook.remove()
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    evaluations = 2 * (config.batch_size or 1)
    return 5 * weights + 5 * kept * evaluations


def fit_batch(network: nn.Module, config: TrainConfig, memory: int, *, scale_rate: bool = True) -> TrainConfig:
    """The configuration with the batch halved until a step fits into so many bytes.

    Args:
        scale_rate: divide the learning rate by √2 each time; not where somebody asked for this rate.
    """
    batch_size, rate = config.batch_size or 1, config.lr or 0.0
    while batch_size > 1 and estimate_memory(network, config) > MEMORY_SHARE * memory:
        batch_size, rate = batch_size // 2, rate / math.sqrt(2) if scale_rate else rate
        config = config.replace(batch_size=batch_size, lr=rate)
    return config


def _check(config: TrainConfig, images: ImageSource) -> None:
    size, levels = config.size or 0, len(config.widths or ())
    if size < 2 ** (levels - 1):
        raise ConfigError(
            f"images of {size}×{size} pixels cannot be halved {levels - 1} times", hint="use fewer levels: --set widths"
        )
    if unused := set(config.attention or ()) - set(level_sizes(size, levels)):
        raise ConfigError(
            f"attention at {sorted(unused)}, but the levels have {level_sizes(size, levels)} pixels",
            hint="name sizes of levels: --set attention=[8]",
        )
    if config.objective == "official" and config.schedule != "ot":
        raise ConfigError("the official objective is defined for the schedule ot only")
    if config.device.startswith("mps") and config.precision == "bf16":
        raise ConfigError("bf16 is not supported on mps here", hint="use --precision fp32")
    if config.augment == "flip" and not images.flips:
        raise ConfigError(f"pictures of {images.name!r} are not themselves when flipped", hint="use --augment none")
