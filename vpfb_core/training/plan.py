"""What a run will do, decided before it does anything: the data, every setting, the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpfb_core import data, networks
from vpfb_core.config import OPERATIONAL, TrainConfig, as_json, read_file
from vpfb_core.data import LoadOptions, Source
from vpfb_core.errors import ConfigError
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import resolve_device
from vpfb_core.methods.base import DataShape, Method
from vpfb_core.model.runs import RUNS, Run, list_runs
from vpfb_core.training import presets

COPIES = 5  # of the weights that training keeps, in float32


@dataclass(frozen=True)
class Plan:
    """Everything that `training.run` needs.

    Attributes:
        config: with everything chosen.
        requested: the settings that were asked for, which a resumed run must share.
        images: the data, all of it; in memory, or on disk where it is very large.
        method: with its settings.
        network: description of the network.
        parameters: how many it has.
        existing: the run to go on with, or None to begin a new one.
    """

    config: TrainConfig
    requested: dict[str, Any]
    images: Source
    method: Method
    network: dict[str, Any]
    parameters: int
    existing: Run | None

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return torch.device(self.config.device)

    @property
    def data_shape(self) -> DataShape:
        """What the method knows of the data."""
        return presets.data_shape(self.images)

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights, gradient, average and both moments of the optimiser; activations come on top."""
        return COPIES * 4 * self.parameters


def prepare(config: TrainConfig) -> Plan:
    """Find the run to resume if one is meant, load the data, choose what was left open. Writes nothing.

    Where several processes train together, the first decides and the others take the same.

    Raises:
        ConfigError: settings that do not exist or contradict each other, the data or the run to be resumed.
        DataError: the data cannot be read.
    """
    group = distributed.group()
    config, requested, existing = group.from_first(lambda: _begun(config))
    if not config.data:
        raise ConfigError("no data named", hint="vpfb train --data FOLDER")
    device = group.together(lambda: resolve_device(config.device))
    images = _found(group, config, device)
    config = group.from_first(lambda: presets.resolve(config, images, device)).replace(device=str(device))
    network = presets.network_description(config, images)
    method = presets.method_of(config, images)
    with torch.device("meta"):
        field = method.field(networks.build(network, config.seed), presets.data_shape(images))
    parameters = sum(parameter.numel() for parameter in field.parameters())
    return Plan(config, requested, images, method, network, parameters, existing)


def _begun(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any], Run | None]:
    """The configuration, what of it was asked for, and the run to go on with, whose settings it then has."""
    requested = _requested(config)
    existing = _run_to_resume(config, requested)
    if existing is None:
        return config, requested, None
    config = _stored_config(existing, config, requested)
    return config, existing.status().get("requested", requested), existing  # by which it is found again


def _found(group: distributed.Group, config: TrainConfig, device: torch.device) -> Source:
    """The data, downloaded once a machine."""
    options = LoadOptions(
        size=config.size,
        max_size=presets.MAX_SIZE[device.type],
        channels=config.channels,
        conditional=config.conditional,
        workers=config.workers or 0,
        root=Path(config.data_root) if config.data_root else None,
        download=config.download,
        stream=True,
    )
    return group.leaders_first(lambda: data.find(config.data, options))


def _requested(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the defaults and decide what a run computes."""
    defaults = TrainConfig().to_dict()
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in OPERATIONAL and value != defaults[name]
    }  # fmt: skip


def _run_to_resume(config: TrainConfig, requested: dict[str, Any]) -> Run | None:
    if config.resume not in ("auto", "never"):
        run = Run(Path(config.resume))
        if not run.exists():
            raise ConfigError(f"no run to resume at {run.path}", hint="--resume takes a run folder, auto or never")
        return run
    if config.out is not None:
        run = Run(Path(config.out))
        if not run.exists():
            return None
        if config.resume == "never":
            raise ConfigError(
                f"{run.path} already holds a run", hint="--resume auto continues it; --out takes another folder"
            )
        return run
    if config.resume == "auto":
        for run in list_runs(RUNS):
            if not run.finished and run.status().get("requested") == as_json(requested):
                return run
    return None


def _stored_config(run: Run, config: TrainConfig, requested: dict[str, Any]) -> TrainConfig:
    """The configuration of a run, where and how to compute taken from the new one.

    Raises:
        ConfigError: something else than the run's own settings was asked for.
    """
    stored = TrainConfig(**read_file(run.config))
    for name, value in requested.items():
        if getattr(stored, name) != value:
            raise ConfigError(
                f"the run {run.path} has {name} = {_shown(getattr(stored, name))}, not {_shown(value)}",
                hint="a run is resumed with the settings it was begun with; --out FOLDER begins another",
            )
    defaults = TrainConfig().to_dict()
    changed = {name: getattr(config, name) for name in OPERATIONAL if getattr(config, name) != defaults[name]}
    return stored.replace(**changed)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
