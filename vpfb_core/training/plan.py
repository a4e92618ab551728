"""The plan of a run, made before anything is written: its data, its settings, and the run that it continues, if any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpfb_core import data, methods, networks
from vpfb_core.config import TrainConfig
from vpfb_core.data import LoadOptions, Source, Statistics
from vpfb_core.errors import ConfigError, DataError, counted
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import resolve_device
from vpfb_core.machine.limits import require_threads
from vpfb_core.methods.base import Method
from vpfb_core.methods.step import DataShape
from vpfb_core.model.runs import Run
from vpfb_core.training import continuation, presets, tensorboard
from vpfb_core.training.initial_weights import weights_for
from vpfb_core.uses.matching.kept import check_names

COPIES = 5  # float32 values per parameter in training: the weight, its gradient, its average and Adam's two moments


@dataclass(frozen=True)
class Plan:
    """The plan of a run: everything that `training.run` needs.

    Attributes:
        config: the configuration, with all settings chosen.
        requested: the settings that the user gave, as JSON values by path. A run is found again by them.
        images: all data of the run, for training and validation.
        statistics: the statistics of the data.
        method: the training method.
        network: the description of the network.
        parameters: the number of parameters of the field.
        existing: the run to continue, or None to begin a new one.
        notes: what the user should know about the run that is continued.
    """

    config: TrainConfig
    requested: dict[str, Any]
    images: Source
    statistics: Statistics
    method: Method
    network: dict[str, Any]
    parameters: int
    existing: Run | None
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return torch.device(self.config.machine.device)

    @property
    def data_shape(self) -> DataShape:
        """The shape of the data and the numbers of classes."""
        return DataShape.of(self.images.shape, self.images.groups)

    @property
    def memory_bytes(self) -> int:
        """The bytes of weights, gradient, average and moments of the optimiser, without those of activations."""
        return COPIES * 4 * self.parameters


def prepare(config: TrainConfig) -> Plan:
    """Make the plan of a run: find the run to resume, load the data, and choose the settings that were left open.

    Nothing is written. If several processes train together, all use the settings that the first chooses.

    Raises:
        ConfigError: a setting does not exist, or it contradicts another one, the data or the run to resume.
        CheckpointError: the model whose weights the run begins with is missing, damaged, or does not fit.
        DataError: the data cannot be read, or a column of a table is constant.
        MissingError: the data or the log need a package that is not installed.
    """
    require_threads(config.machine.threads)
    require_threads(config.machine.workers, "workers")
    if config.run.log == "tensorboard":
        tensorboard.require()
    group = distributed.group()
    begun = group.from_first(lambda: continuation.find(config, _fingerprint))
    config = begun.config
    if not config.data.source:
        raise ConfigError("no data named", hint="vpfb train --data FOLDER")
    device = group.together(lambda: resolve_device(config.machine.device))
    images = group.leaders_first(lambda: data.find(config.data.source, _load_options(config, device)))
    if len(images) < images.fewest:
        raise DataError(
            f"'{images.name}' has {counted(len(images), images.noun)}, and training needs at least {images.fewest}"
        )
    config = group.from_first(lambda: presets.resolve(config, images, device))
    config = config.replace(device=str(device))
    network = presets.network_description(config, images)
    method, shape = presets.method_of(config, images), DataShape.of(images.shape, images.groups)
    if config.run.match:
        densities, moves = (methods.gives(method.name, use) for use in ("density", "tilt"))
        masks = None if begun.existing is None else begun.existing.masks
        check_names(config.run.match, images, densities=densities, moves=moves, masks=masks)
        if not method.trains_null(shape):
            raise ConfigError("`match` needs samples without a class", hint="`condition_dropout=0.1`")
    with networks.shapes_only():
        field = method.field(networks.build(network, config.run.seed), shape)
    if config.run.init is not None and begun.existing is None:
        init = config.run.init
        group.together(lambda: weights_for(field, init))  # refuses weights that do not fit
    parameters = sum(parameter.numel() for parameter in field.parameters())
    statistics = group.together(images.statistics)
    return Plan(config, begun.requested, images, statistics, method, network, parameters, begun.existing, begun.notes)


def _fingerprint(config: TrainConfig) -> str:
    """The fingerprint of the data of the configuration of a run."""
    return data.find(config.data.source, _load_options(config, torch.device("cpu"))).fingerprint()


def _load_options(config: TrainConfig, device: torch.device) -> LoadOptions:
    return LoadOptions(
        size=config.data.size,
        max_size=presets.MAX_SIZE[device.type],
        channels=config.data.channels,
        conditional=config.data.conditional,
        workers=config.machine.workers or 0,
        root=Path(config.data.data_root) if config.data.data_root else None,
        download=config.data.download,
        stream=True,
        validation=True,
        columns=config.data.columns,
        label=config.data.label,
    )
