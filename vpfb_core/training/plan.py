"""The plan of a run, made before anything is written: its data, its settings, and the run that it continues, if any."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpfb_core import data, methods, networks
from vpfb_core.config import OPERATIONAL, TrainConfig, as_json, located, read_file
from vpfb_core.data import LoadOptions, Source
from vpfb_core.errors import ConfigError
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import available_devices, resolve_device
from vpfb_core.machine.files import require_writable_folder
from vpfb_core.machine.limits import require_threads
from vpfb_core.methods.base import DataShape, Method
from vpfb_core.model.runs import RUNS, Run, list_runs, require_free
from vpfb_core.training import presets

LENGTH = ("optimiser.steps", "optimiser.time_budget")  # a resumed run may be given a larger value of these
# These are chosen again when a run is resumed on another machine.
MACHINE = tuple(f"machine.{name}" for name in ("device", "threads", "workers", "micro_batch", "compile"))
COPIES = 5  # float32 values per parameter in training: the weight, its gradient, its average and Adam's two moments


@dataclass(frozen=True)
class Plan:
    """The plan of a run: everything that `training.run` needs.

    Attributes:
        config: the configuration, with all settings chosen.
        requested: the settings that the user gave, as JSON values by path. A run is found again by them.
        images: all data of the run, for training and validation.
        method: the training method.
        network: the description of the network.
        parameters: the number of parameters of the field.
        existing: the run to continue, or None to begin a new one.
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
        """The device of the run."""
        return torch.device(self.config.machine.device)

    @property
    def data_shape(self) -> DataShape:
        """The shape of the data and the numbers of classes."""
        return presets.data_shape(self.images)

    @property
    def memory_bytes(self) -> int:
        """The bytes of weights, gradient, average and moments of the optimiser, without those of activations."""
        return COPIES * 4 * self.parameters


def prepare(config: TrainConfig) -> Plan:
    """Make the plan of a run: find the run to resume, load the data, and choose the settings that were left open.

    Nothing is written. If several processes train together, all use the settings that the first chooses.

    Raises:
        ConfigError: a setting does not exist, or it contradicts another one, the data or the run to resume.
        DataError: the data cannot be read.
    """
    require_threads(config.machine.threads)
    require_threads(config.machine.workers, "workers")
    group = distributed.group()
    config, requested, existing = group.from_first(lambda: _continued(config))
    if not config.data.source:
        raise ConfigError("no data named", hint="vpfb train --data FOLDER")
    device = group.together(lambda: resolve_device(config.machine.device))
    images = _load_data(group, config, device)
    config = group.from_first(lambda: presets.resolve(config, images, device))
    config = config.replace(device=str(device))
    network = presets.network_description(config, images)
    method = presets.method_of(config, images)
    with torch.device("meta"):
        field = method.field(networks.build(network, config.run.seed), presets.data_shape(images))
    parameters = sum(parameter.numel() for parameter in field.parameters())
    return Plan(config, requested, images, method, network, parameters, existing)


def _continued(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any], Run | None]:
    """The configuration, the settings that the user gave, and the run to continue, if there is one.

    If a run is continued, the configuration is that of the run, and so are the settings except for the length.
    """
    requested = as_json(config.requested())
    existing = _run_to_resume(config, requested)
    if existing is None:
        return config, requested, None
    config = _stored_config(existing, config, requested)
    at_its_beginning = _requested_by(existing) or requested
    if length := {path: requested[path] for path in LENGTH if path in requested}:
        at_its_beginning = {path: value for path, value in at_its_beginning.items() if path not in LENGTH} | length
    return config, at_its_beginning, existing


def _load_data(group: distributed.Group, config: TrainConfig, device: torch.device) -> Source:
    """Load the data. They are downloaded once per machine."""
    options = LoadOptions(
        size=config.data.size,
        max_size=presets.MAX_SIZE[device.type],
        channels=config.data.channels,
        conditional=config.data.conditional,
        workers=config.machine.workers or 0,
        root=Path(config.data.data_root) if config.data.data_root else None,
        download=config.data.download,
        stream=True,
        validation=True,
    )
    return group.leaders_first(lambda: data.find(config.data.source, options))


def _run_to_resume(config: TrainConfig, requested: dict[str, Any]) -> Run | None:
    """The run to continue: that of `resume`, that in `out`, or the newest unfinished one with the same settings."""
    if config.run.resume not in ("auto", "never"):
        run = Run(Path(config.run.resume))
        if not run.exists():
            raise ConfigError(f"no run to resume at {run.path}", hint="--resume takes a run folder, auto or never")
        return run
    if config.run.out is not None:
        run = Run(Path(config.run.out))
        if not run.exists():
            require_free(run)
            return None
        if config.run.resume == "never":
            raise ConfigError(
                f"{run.path} already holds a run", hint="--resume auto continues it; --out takes another folder"
            )
        return run
    if config.run.resume == "auto":
        for run in list_runs(RUNS):
            if not run.finished and _requested_by(run) == requested:
                return run
    require_writable_folder(RUNS)
    return None


def _requested_by(run: Run) -> dict[str, Any] | None:
    """The settings that the user gave when a run began, by path; None if they are not known.

    Files of version 1 have settings without sections.
    """
    try:
        return as_json(located(run.status().get("requested", {})))
    except (ConfigError, AttributeError):
        return None


def _stored_config(run: Run, config: TrainConfig, requested: dict[str, Any]) -> TrainConfig:
    """The stored configuration of a run, with the length and the operational settings of the new configuration.

    Args:
        run: the run to continue.
        config: the new configuration.
        requested: the settings that the user gave in it.
    Raises:
        ConfigError: another setting differs from that of the run, or the run is already as long as the new length.
    """
    stored = _with_added_settings(TrainConfig.of(read_file(run.config)))
    kept, asked, defaults = as_json(stored.flat()), config.flat(), TrainConfig().flat()
    for path, value in requested.items():
        if path not in LENGTH and kept.get(path) != value:
            raise ConfigError(
                f"the run {run.path} has {path} = {_shown(kept.get(path))}, not {_shown(value)}",
                hint="leave the setting out to resume this run, or use --out FOLDER to begin another one",
            )
    length = {path: asked[path] for path in LENGTH if asked[path] is not None}
    if any(kept[path] != value for path, value in length.items()):
        _require_longer(run, length)
        stored = stored.replace(**dict.fromkeys(LENGTH)).replace(**length)
    if _was_elsewhere(run, stored):
        stored = stored.replace(**{path: defaults[path] for path in MACHINE})
    return stored.replace(**{path: asked[path] for path in OPERATIONAL if asked[path] != defaults[path]})


def _with_added_settings(stored: TrainConfig) -> TrainConfig:
    """The configuration of a run, in which settings of the method that are newer than the run leave it as it was."""
    kind, settings = methods.find(str(stored.method.name)), stored.method.settings
    added = {name: value for name, value in kind.added_settings().items() if settings.get(name) is None}
    return stored.replace(**{f"method.{name}": value for name, value in added.items()})


def _require_longer(run: Run, length: Mapping[str, float]) -> None:
    """Raise ConfigError if a run is already as long as its new length."""
    status = run.status()
    for path, done in (("optimiser.steps", status.get("step")), ("optimiser.time_budget", status.get("seconds"))):
        if path in length and isinstance(done, int | float) and length[path] <= done:
            unit = "steps" if path == "optimiser.steps" else "seconds"
            raise ConfigError(
                f"the run {run.path} has already taken {done:,.0f} {unit}, so it cannot go on to {length[path]:,.0f}",
                hint=f"ask for more {unit}: the length is that of the whole run, not of what is added",
            )


def _was_elsewhere(run: Run, stored: TrainConfig) -> bool:
    """Whether the last session of a run was on another machine, or on a device that does not exist here."""
    host = run.status().get("host")
    return (host is not None and host != platform.node()) or stored.machine.device not in available_devices()


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
