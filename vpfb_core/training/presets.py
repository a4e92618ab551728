"""Presets, and the choice of the settings that depend on the data and the machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from vpfb_core import methods, networks
from vpfb_core.config import TrainConfig
from vpfb_core.data import Source
from vpfb_core.errors import ConfigError
from vpfb_core.machine.devices import default_threads
from vpfb_core.machine.launch import place
from vpfb_core.machine.limits import cores, memory_share
from vpfb_core.methods.base import DataShape, Method

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
NETWORK, WARMUP = "unet", 100  # of presets that do not say
CPU_TIME_BUDGET = 15 * 60.0
# Images at once on a CPU, where a process that runs out of memory is killed before it can try again with fewer. The
# activations of so many take 1.5 to 3 GiB; those of the whole batch of these presets take tens of GiB. With less memory
# to plan with than this, it is in proportion fewer.
CPU_MICRO_BATCH = {"base": 8, "paper": 4, "celeba64": 4}
CPU_MICRO_BATCH_BYTES = 3 * 2**30
# Largest side that is chosen for a folder of large pictures.
MAX_SIZE = {"cpu": 32, "mps": 64, "cuda": 64}
# `--compile auto`: where there are so many steps, or seconds, that the minutes of compiling come back.
LONG_STEPS, LONG_SECONDS = 10_000, 30 * 60.0


def resolve(config: TrainConfig, images: Source, device: torch.device) -> TrainConfig:
    """The configuration with everything chosen that was left open.

    Raises:
        ConfigError: settings that contradict each other or the data.
    """
    data = data_shape(images)
    preset_name = config.run.preset or choose_preset(data.shape[-1], device)
    preset = {"network": NETWORK, "warmup": WARMUP} | PRESETS[preset_name]
    chosen: dict[str, Any] = {
        "run.preset": preset_name,
        "network.name": config.network.name or preset["network"],
        "data.augment": ("flip" if images.flips else "none") if config.data.augment == "auto" else config.data.augment,
        "data.size": data.shape[-1],
        "data.channels": data.shape[0],
        "machine.device": str(device),
    }
    open_settings = {
        f"optimiser.{name}": preset[name] for name in ("batch_size", "lr", "warmup")
    } | _length(config, preset, device) | _machine(device)  # fmt: skip
    asked = config.flat() | chosen
    chosen |= {path: value for path, value in open_settings.items() if asked[path] is None}
    network = networks.find(chosen["network.name"])
    asked_network = {name: value for name, value in config.network.settings.items() if value is not None}
    values = network.defaults(data.shape, data.classes, preset, asked_network) | asked_network
    chosen |= {f"network.{name}": value for name, value in values.items()}
    kind = methods.find(str(config.method.name))
    wishes = dict(config.method.settings) | {"decay": config.optimiser.decay}
    settings = kind.Settings.from_dict(config.method.settings).completed(kind.defaults(data, wishes))
    chosen |= {f"method.{name}": value for name, value in settings.to_dict().items()}
    resolved = config.replace(**chosen)
    share = -(-(resolved.optimiser.batch_size or 1) // place().count)  # of the largest process
    method = method_of(resolved, images)
    at_once = share
    if device.type == "cpu" and method.divisible and preset_name in CPU_MICRO_BATCH:
        affordable = CPU_MICRO_BATCH[preset_name] * memory_share() // CPU_MICRO_BATCH_BYTES
        at_once = max(1, min(CPU_MICRO_BATCH[preset_name], affordable))
    resolved = resolved.replace(micro_batch=min(share, resolved.machine.micro_batch or at_once))
    if resolved.machine.compile == "auto":
        pays = method.compilable and pays_to_compile(resolved, device)
        resolved = resolved.replace(compile="on" if pays else "off")
    _check(resolved, images, method, share)
    return resolved


def _length(config: TrainConfig, preset: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The length of the run, where none was asked for."""
    if config.optimiser.steps is not None or config.optimiser.time_budget is not None:
        return {}
    limit = {"optimiser.time_budget": CPU_TIME_BUDGET} if device.type == "cpu" else {}
    return {"optimiser.steps": preset["steps"]} | limit


def _machine(device: torch.device) -> dict[str, Any]:
    """How this machine computes, where nothing else was asked for."""
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "machine.precision": "bf16" if bf16 else "fp32",
        "machine.threads": default_threads(),
        "machine.workers": max(1, cores() // place().local_count),
    }


def data_shape(images: Source) -> DataShape:
    """What a method knows of the data."""
    return DataShape(tuple(images.shape), tuple(len(group.classes) for group in images.groups))


def method_of(config: TrainConfig, images: Source) -> Method:
    """The method of a resolved configuration.

    Raises:
        ConfigError: its settings do not fit the data or the run.
    """
    method = methods.build(str(config.method.name), config.method.settings)
    method.check(data_shape(images), decay=config.optimiser.decay, processes=place().count)
    return method


def network_description(config: TrainConfig, images: Source) -> dict[str, Any]:
    """The network of a resolved configuration, as `networks.build` reads it.

    Raises:
        ConfigError: its settings do not fit the data.
    """
    network, data = networks.find(str(config.network.name)), data_shape(images)
    settings = network.Settings.from_dict(config.network.settings)
    network.check(settings, data.shape, data.classes)
    return network.describe(settings, data.shape, data.classes)


def choose_preset(size: int, device: torch.device) -> str:
    """The preset for images of `size` pixels per side on this kind of device."""
    if size <= 16:
        return "tiny"
    if device.type != "cuda":
        return "small"
    return "base" if size <= 48 else "celeba64"


def pays_to_compile(config: TrainConfig, device: torch.device) -> bool:
    """On a GPU whose compiler is there, in a long run; on a CPU compiling takes as long as a run and gains little."""
    steps, budget = config.optimiser.steps, config.optimiser.time_budget
    long = (steps or 0) >= LONG_STEPS if budget is None else budget >= LONG_SECONDS
    tools = find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
    return device.type == "cuda" and long and tools


def _check(config: TrainConfig, images: Source, method: Method, share: int) -> None:
    network_description(config, images)
    if not method.divisible and (config.machine.micro_batch or 1) < share:
        raise ConfigError(
            "this loss takes its statistics over the whole batch, which cannot be divided",
            hint="use a smaller --batch-size and no micro_batch",
        )
    if (config.optimiser.batch_size or 1) < place().count:
        raise ConfigError(
            f"a batch of {config.optimiser.batch_size} images cannot be shared by {place().count} processes",
            hint="--batch-size is that of all processes together",
        )
    if config.machine.device.startswith("mps") and config.machine.precision == "bf16":
        raise ConfigError("bf16 is not supported on mps here", hint="use --precision fp32")
    if config.data.augment == "flip" and not images.flips:
        raise ConfigError(f"images of {images.name!r} are not themselves when flipped", hint="use --augment none")
