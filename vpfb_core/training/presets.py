"""Presets, and the choice of the settings that depend on the data and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vpfb_core import methods, names, networks
from vpfb_core.config import TrainConfig
from vpfb_core.data import Source
from vpfb_core.errors import ConfigError, MissingError
from vpfb_core.machine.compiler import compiler_fault
from vpfb_core.machine.devices import default_threads
from vpfb_core.machine.launch import process_rank
from vpfb_core.machine.limits import cores, memory_share
from vpfb_core.machine.precision import has_fast_bf16
from vpfb_core.methods.base import Method
from vpfb_core.methods.step import DataShape

# `batch_size` counts images, and training evaluates two points per image. `attention` is the largest size of a feature
# map that has attention: with 16, it is the map of 16x16 pixels for images of 32 pixels, and that of 14x14 for 28.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (32, 64), "algorithm": "muon", "batch_size": 32, "lr": 5e-3, "steps": 5_000},
    "small": {
        "widths": (48, 96, 128), "patch": 2, "prototypes": True,
        "algorithm": "muon", "batch_size": 32, "lr": 5e-3, "steps": 20_000,
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
    "mlp": {
        "network": "residual-mlp", "vector_network": "vector-mlp", "batch_size": 256, "lr": 5e-3, "warmup": 20,
        "steps": 4_000, "epochs": 128, "cpu_seconds": 50.0, "keep_best": True,
    },
}  # fmt: skip
# Of presets that do not contain them.
DEFAULTS = {"network": "unet", "algorithm": "adam", "warmup": 100, "decay": 0.5, "keep_best": False}
CPU_TIME_BUDGET = 15 * 60.0  # of presets without `cpu_seconds`
LEAST_STEPS = 60  # of presets with `epochs`, the largest number of passes over the data
# The number of images at once on a CPU, where the system kills a process that runs out of memory, so that it cannot try
# again with fewer images. Their activations take 1.5 to 3 GiB; those of the whole batch of these presets take tens of
# GiB. If the process may use less memory than CPU_MICRO_BATCH_BYTES, the number is proportionally smaller.
CPU_MICRO_BATCH = {"base": 8, "paper": 4, "celeba64": 4}
CPU_MICRO_BATCH_BYTES = 3 * 2**30
MAX_SIZE = {"cpu": 32, "mps": 64, "cuda": 64}  # the largest side that is chosen for a folder of large images, in pixels
# `--compile auto` compiles from this length of a run on, since compiling takes minutes.
LONG_STEPS, LONG_SECONDS = 10_000, 30 * 60.0
COMPILING = ("cpu", "cuda")  # the types of devices on which compiling was found to pay


def resolve(config: TrainConfig, images: Source, device: torch.device) -> TrainConfig:
    """The configuration with all settings chosen that were left open.

    They are chosen from the data, the preset and the machine.

    Raises:
        ConfigError: a setting contradicts another one or the data.
    """
    data = DataShape.of(images.shape, images.groups)
    preset_name = config.run.preset or choose_preset(data.shape, device)
    kind, only_network = methods.find(str(config.method.name)), names.METHODS[str(config.method.name)].network
    preset = {**DEFAULTS, **PRESETS[preset_name], **kind.optimiser}
    fitting = "network" if kind.trains_scalars else "vector_network"
    preset["network"] = only_network or preset.get(fitting, preset["network"])
    preset["keep_best"] = preset["keep_best"] and kind.judged
    config = config.replace(**_from_data(config, images), device=str(device))
    config = _filled(config, {"run.preset": preset_name, "network.name": preset["network"]})
    optimiser = ("algorithm", "batch_size", "lr", "warmup", "decay", "keep_best")
    config = _filled(config, {f"optimiser.{name}": preset[name] for name in optimiser})
    config = _filled(config, _length(config, preset, device, len(images)) | _from_machine(device))
    config = _filled(config, _network_settings(config, data, preset) | _method_settings(config, data))
    _require_fitting_network(config)
    method = method_of(config, images)
    config = config.replace(micro_batch=_micro_batch(config, method, device))
    config = config.replace(compile="on" if _compiles(config, method, device) else "off")
    network_description(config, images)  # checks the settings of the network
    _require_divisible_batch(config, method)
    _require_supported_precision(config)
    _require_sensible_flips(config, images)
    return config


def _filled(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with these values, by path, for the settings that are None or were not given."""
    current = config.flat()
    return config.replace(**{path: value for path, value in values.items() if current.get(path) is None})


def _from_data(config: TrainConfig, images: Source) -> dict[str, Any]:
    """The settings of the data as they are, such as size and channels, and whether images are mirrored."""
    augment = config.data.augment
    if augment == "auto":
        augment = "flip" if images.flips else "none"
    return {"data.augment": augment, **{f"data.{name}": value for name, value in images.chosen.items()}}


def _length(config: TrainConfig, preset: Mapping[str, Any], device: torch.device, count: int) -> dict[str, Any]:
    """The length of a run on `count` data for which neither steps nor a time budget are given."""
    if config.optimiser.steps is not None or config.optimiser.time_budget is not None:
        return {}
    seconds = preset.get("cpu_seconds", CPU_TIME_BUDGET)
    limit = {"optimiser.time_budget": seconds} if device.type == "cpu" else {}
    steps = preset["steps"]
    if "epochs" in preset:
        batch_size = config.optimiser.batch_size or preset["batch_size"]
        steps = min(steps, max(LEAST_STEPS, round(preset["epochs"] * count / batch_size)))
    return {"optimiser.steps": steps} | limit


def _from_machine(device: torch.device) -> dict[str, Any]:
    """The precision and the numbers of threads that suit this machine."""
    return {
        "machine.precision": "bf16" if has_fast_bf16(device) else "fp32",
        "machine.threads": default_threads(),
        "machine.workers": max(1, cores() // process_rank().local_count),
    }


def _network_settings(config: TrainConfig, data: DataShape, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the network for these data, by path."""
    network = networks.find(str(config.network.name))
    given = {name: value for name, value in config.network.settings.items() if value is not None}
    defaults = network.defaults(data.shape, data.classes, preset, given)
    return {f"network.{name}": value for name, value in defaults.items()}


def _method_settings(config: TrainConfig, data: DataShape) -> dict[str, Any]:
    """The settings of the method, with its defaults for these data, by path."""
    method = methods.find(str(config.method.name))
    given = dict(config.method.settings)
    timed = config.optimiser.time_budget is not None
    defaults = method.defaults(data, given | {"decay": config.optimiser.decay, "timed": timed})
    settings = method.Settings.from_dict(given).completed(defaults)
    return {f"method.{name}": value for name, value in settings.to_dict().items()}


def _micro_batch(config: TrainConfig, method: Method, device: torch.device) -> int:
    """The number of images that a process differentiates at once, at most its share of the batch."""
    share, preset = _largest_share(config), config.run.preset
    if config.machine.micro_batch is not None:
        return min(share, config.machine.micro_batch)
    if device.type != "cpu" or not method.divisible or preset not in CPU_MICRO_BATCH:
        return share
    most = CPU_MICRO_BATCH[preset]
    return min(share, most, max(1, most * memory_share() // CPU_MICRO_BATCH_BYTES))


def _largest_share(config: TrainConfig) -> int:
    """The largest number of images of a batch that a process of this job computes."""
    return -(-(config.optimiser.batch_size or 1) // process_rank().count)


def method_of(config: TrainConfig, images: Source) -> Method:
    """The method of a resolved configuration.

    Raises:
        ConfigError: its settings do not fit the data, the network or the run.
    """
    method = methods.build(str(config.method.name), config.method.settings)
    method.check(
        DataShape.of(images.shape, images.groups), scalar=networks.find(str(config.network.name)).scalar,
        decay=config.optimiser.decay or 0.0, processes=process_rank().count,
    )  # fmt: skip
    return method


def network_description(config: TrainConfig, images: Source) -> dict[str, Any]:
    """The description of the network of a resolved configuration, from which `networks.build` makes the network.

    Raises:
        ConfigError: its settings do not fit the data.
    """
    network, data = networks.find(str(config.network.name)), DataShape.of(images.shape, images.groups)
    settings = network.Settings.from_dict(config.network.settings)
    network.check(settings, data.shape, data.classes)
    return network.describe(settings, data.shape, data.classes)


def choose_preset(shape: tuple[int, ...], device: torch.device) -> str:
    """The preset for data of this shape on this type of device."""
    size = shape[-1]
    if len(shape) == 1:
        return "mlp"
    if size <= 16:
        return "tiny"
    if device.type != "cuda":
        return "small"
    return "base" if size <= 48 else "celeba64"


def _compiles(config: TrainConfig, method: Method, device: torch.device) -> bool:
    """Whether the training step is compiled: on request, or in a long run, if it makes training faster and can be done.

    Raises:
        ConfigError: it was requested, and the method cannot be compiled.
        MissingError: it was requested, and the compiler does not work.
    """
    asked = config.machine.compile
    if asked == "on" and not method.compilable:
        objective = config.method.settings.get("objective")
        what = f"objective {objective}" if objective else f"method {method.name}"
        raise ConfigError(f"the training step of the {what} cannot be compiled", hint="use `compile=off`")
    pays = method.compilable and method.faster_compiled and device.type in COMPILING and _is_long(config)
    if asked == "off" or (asked == "auto" and not pays):
        return False
    fault = compiler_fault(device)
    if asked == "on" and fault is not None:
        raise MissingError(f"the training step cannot be compiled: {fault}", hint="use `compile=off`")
    return fault is None


def _is_long(config: TrainConfig) -> bool:
    """Whether compiling, which takes minutes, is a small part of the run."""
    steps, budget = config.optimiser.steps, config.optimiser.time_budget
    return (steps or 0) >= LONG_STEPS if budget is None else budget >= LONG_SECONDS


def _require_fitting_network(config: TrainConfig) -> None:
    """Raise ConfigError if the method does not train the network."""
    method, network = str(config.method.name), config.network.name
    needed = names.METHODS[method].network
    others = [name for name, row in names.METHODS.items() if row.network == network]
    if network != needed and (needed is not None or others):
        raise ConfigError(
            f"the method {method} does not train the network {network}",
            hint=f"`network={needed}`" if needed else f"methods that train it: {', '.join(others)}",
        )


def _require_divisible_batch(config: TrainConfig, method: Method) -> None:
    """Raise ConfigError if a batch must be divided, among processes or micro-batches, and cannot be."""
    if not method.divisible and (config.machine.micro_batch or 1) < _largest_share(config):
        raise ConfigError(
            "this loss takes its statistics over the whole batch, which cannot be divided",
            hint="use a smaller `batch_size` and no micro_batch",
        )
    if not method.divisible and config.optimiser.batch_size == 1:
        raise ConfigError(
            "this loss takes its statistics over the batch, and a batch of one image has none",
            hint="use a `batch_size` of at least 2",
        )
    if (config.optimiser.batch_size or 1) < process_rank().count:
        raise ConfigError(
            f"a batch of {config.optimiser.batch_size} images cannot be shared by {process_rank().count} processes",
            hint="use a larger `batch_size`, which is that of all processes together",
        )


def _require_supported_precision(config: TrainConfig) -> None:
    if config.machine.device.startswith("mps") and config.machine.precision == "bf16":
        raise ConfigError("precision bf16 is not supported on mps", hint="use `precision=fp32`")


def _require_sensible_flips(config: TrainConfig, images: Source) -> None:
    if config.data.augment == "flip" and not images.flips:
        raise ConfigError(
            f"a mirrored image of {images.name!r} is not an image of the same kind", hint="use `augment=none`"
        )
