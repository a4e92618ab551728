"""The plan of a run, which is made before anything is written: its data, its settings and its folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpfb_core import data, networks
from vpfb_core.config import OPERATIONAL, TrainConfig, as_json, located, read_file
from vpfb_core.data import LoadOptions, Source
from vpfb_core.errors import ConfigError
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import available_devices, resolve_device
from vpfb_core.methods.base import DataShape, Method
from vpfb_core.model.runs import RUNS, Run, list_runs
from vpfb_core.training import presets

# Settings that a run may exceed when it goes on, and those that are chosen anew when it goes on elsewhere.
LENGTH = ("optimiser.steps", "optimiser.time_budget")
MACHINE = tuple(f"machine.{name}" for name in ("device", "threads", "workers", "micro_batch", "compile"))
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
        """The device of the run."""
        return torch.device(self.config.machine.device)

    @property
    def data_shape(self) -> DataShape:
        """The shape of the data and the numbers of classes."""
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
    if not config.data.source:
        raise ConfigError("no data named", hint="vpfb train --data FOLDER")
    device = group.together(lambda: resolve_device(config.machine.device))
    images = _found(group, config, device)
    config = group.from_first(lambda: presets.resolve(config, images, device))
    config = config.replace(device=str(device))
    network = presets.network_description(config, images)
    method = presets.method_of(config, images)
    with torch.device("meta"):
        field = method.field(networks.build(network, config.run.seed), presets.data_shape(images))
    parameters = sum(parameter.numel() for parameter in field.parameters())
    return Plan(config, requested, images, method, network, parameters, existing)


def _begun(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any], Run | None]:
    """The configuration, what of it was asked for, and the run to go on with, whose settings it then has."""
    requested = as_json(config.requested())
    existing = _run_to_resume(config, requested)
    if existing is None:
        return config, requested, None
    config = _stored_config(existing, config, requested)
    begun_with = _was_requested(existing) or requested  # by which it is found again
    if length := {path: requested[path] for path in LENGTH if path in requested}:
        begun_with = {path: value for path, value in begun_with.items() if path not in LENGTH} | length
    return config, begun_with, existing


def _found(group: distributed.Group, config: TrainConfig, device: torch.device) -> Source:
    """The data, downloaded once per machine."""
    options = LoadOptions(
        size=config.data.size,
        max_size=presets.MAX_SIZE[device.type],
        channels=config.data.channels,
        conditional=config.data.conditional,
        workers=config.machine.workers or 0,
        root=Path(config.data.data_root) if config.data.data_root else None,
        download=config.data.download,
        stream=True,
    )
    return group.leaders_first(lambda: data.find(config.data.source, options))


def _run_to_resume(config: TrainConfig, requested: dict[str, Any]) -> Run | None:
    if config.run.resume not in ("auto", "never"):
        run = Run(Path(config.run.resume))
        if not run.exists():
            raise ConfigError(f"no run to resume at {run.path}", hint="--resume takes a run folder, auto or never")
        return run
    if config.run.out is not None:
        run = Run(Path(config.run.out))
        if not run.exists():
            return None
        if config.run.resume == "never":
            raise ConfigError(
                f"{run.path} already holds a run", hint="--resume auto continues it; --out takes another folder"
            )
        return run
    if config.run.resume == "auto":
        for run in list_runs(RUNS):
            if not run.finished and _was_requested(run) == requested:
                return run
    return None


def _was_requested(run: Run) -> dict[str, Any] | None:
    """What was asked for when a run was begun, by the paths of today; None where that is not known."""
    try:
        return as_json(located(run.status().get("requested", {})))
    except (ConfigError, AttributeError):
        return None


def _stored_config(run: Run, config: TrainConfig, requested: dict[str, Any]) -> TrainConfig:
    """The configuration of a run, its length and its machine taken from the new one where that says so.

    Raises:
        ConfigError: something else than the run's own settings was asked for, or a length that is behind it.
    """
    stored = TrainConfig.of(read_file(run.config))
    kept, asked, defaults = as_json(stored.flat()), config.flat(), TrainConfig().flat()
    for path, value in requested.items():
        if path not in LENGTH and kept.get(path) != value:
            raise ConfigError(
                f"the run {run.path} has {path} = {_shown(kept.get(path))}, not {_shown(value)}",
                hint="a run is resumed with the settings it was begun with; --out FOLDER begins another",
            )
    length = {path: asked[path] for path in LENGTH if asked[path] is not None}
    if any(kept[path] != value for path, value in length.items()):
        _require_ahead(run, length)
        stored = stored.replace(**dict.fromkeys(LENGTH)).replace(**length)
    if _is_elsewhere(run, stored):  # how to compute is chosen anew
        stored = stored.replace(**{path: defaults[path] for path in MACHINE})
    return stored.replace(**{path: asked[path] for path in OPERATIONAL if asked[path] != defaults[path]})


def _require_ahead(run: Run, length: Mapping[str, float]) -> None:
    """A run goes on to a length that it does not have yet."""
    status = run.status()
    for path, done in (("optimiser.steps", status.get("step")), ("optimiser.time_budget", status.get("seconds"))):
        if path in length and isinstance(done, int | float) and length[path] <= done:
            unit = "steps" if path == "optimiser.steps" else "seconds"
            raise ConfigError(
                f"the run {run.path} has already taken {done:,.0f} {unit}, so it cannot go on to {length[path]:,.0f}",
                hint="ask for more than that in all",
            )


def _is_elsewhere(run: Run, stored: TrainConfig) -> bool:
    """Whether a run was made on another machine than this one, or on a device that is not here."""
    host = run.status().get("host")
    return (host is not None and host != platform.node()) or stored.machine.device not in available_devices()


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
