"""Saving and loading of trained models as .safetensors files. Loading checks every tensor."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from vpfb_core import methods, networks
from vpfb_core.data.kinds import read_statistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import container
from vpfb_core.machine.devices import place_network, resolve_device
from vpfb_core.machine.precision import float32_by_default
from vpfb_core.methods import version_1
from vpfb_core.methods.fields import Field
from vpfb_core.methods.step import DataShape
from vpfb_core.model.description import Description
from vpfb_core.model.reference import Reference
from vpfb_core.model.runs import Run, find_model, model_name
from vpfb_core.model.tilt import Tilt
from vpfb_core.model.trained import TrainedModel

REFERENCE = "reference/"  # the prefix of the reference's tensors in a file
DIRECTION = "tilt/direction"  # a tensor, so that versions that know no tilt refuse the file
WEIGHTS = ("ema", "raw")
Model = TypeVar("Model", bound=TrainedModel)


def save(model: TrainedModel, path: str | os.PathLike[str], *, weights: torch.dtype = torch.float32) -> None:
    """Save a model as one .safetensors file.

    Args:
        model: the model.
        path: the file, which is replaced.
        weights: the precision of the weights in the file, float32 or float16. They are loaded as float32.
    Raises:
        DataError: the file cannot be written.
    """
    model, tilt = model.untilted, model.tilt
    document = {
        "method": {"name": model.method.name, "settings": model.method.settings.to_dict()},
        "network": model.network,
        "statistics": model.statistics.to_dict(),
        "shape": list(model.shape),
        "groups": [asdict(group) for group in model.groups],
        "parameters": model.parameter_count,
        "about": model.about,
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
    }
    tensors = {
        name: tensor.to(weights) if tensor.dtype == torch.float32 else tensor
        for name, tensor in model.field.state_dict().items()
    }
    if tilt is not None:
        document["tilt"] = tilt.to_dict()
        tensors[DIRECTION] = tilt.direction
    if model.reference is not None:
        tensors |= {REFERENCE + name: tensor for name, tensor in model.reference.tensors().items()}
    container.write(Path(path), "model", tensors, document)


def has_reference(path: Path) -> bool:
    """Whether a model file has a reference of out-of-distribution scores, which its header tells.

    Errors are those of `description.read_header`.
    """
    return any(name.startswith(REFERENCE) for name in container.read_names(path))


@float32_by_default()
def load(
    kind: type[Model],
    name: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    weights: str = "ema",
) -> Model:
    """Load a trained model.

    Args:
        kind: the class of the model that is returned.
        name: a .safetensors file, a run folder or a built-in name; None is the newest run (see `runs.find_model`).
        device: a device, or "auto", "cpu", "cuda", "cuda:N" or "mps".
        weights: "ema" for the averaged weights, or "raw" for the weights of the optimiser, which only a run folder has.
    Raises:
        CheckpointError: there is no such model, its file is damaged, or this version cannot build it.
        ConfigError: there is no such device, or no such weights.
    """
    target = resolve_device(device)
    path = find_model(name)
    stored = container.read(path, "model")
    described = Description.parse(stored.document, path)
    tensors = {name: tensor for name, tensor in stored.tensors.items() if not name.startswith(REFERENCE)}
    direction = tensors.pop(DIRECTION, None) if described.tilt is not None else None
    remembered = {
        name.removeprefix(REFERENCE): tensor for name, tensor in stored.tensors.items() if name.startswith(REFERENCE)
    }
    if stored.document["format"] == 1:
        tensors = version_1.model_tensors(tensors)
    if weights != "ema":
        tensors = _raw_weights(path, weights)
    try:
        # The first build needs no memory, since a wrong description could ask for any amount. It checks the tensors.
        with networks.shapes_only():
            _require_fit(_build(kind, described).field, tensors, path)
        model = _build(kind, described)
        tilt = _tilt(described, direction) if weights == "ema" else None
        if weights == "ema":  # the calibration, the reference and the tilt belong to the averaged weights
            model.reference = Reference.from_tensors(remembered) if remembered else None
        else:
            model.calibration = None
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} describes a model that this version cannot build: {error}") from error
    model.field.load_state_dict(tensors)
    place_network(model.field, target)
    model.field.eval().requires_grad_(False)
    return model if tilt is None else model.with_tilt(tilt)


def _build(kind: type[Model], described: Description) -> Model:
    """The model of a description, without its tensors."""
    groups = tuple(ConditionGroup(*group) for group in described.groups)
    data = DataShape.of(described.shape, groups)
    statistics = read_statistics(described.statistics)
    statistics.require_shape(data.shape)
    networks.require_shape(described.network, data.shape, data.classes)
    method = methods.build(described.method, described.settings)
    calibration = None
    if described.calibration is not None:
        calibration = method.read_calibration(described.calibration)
        calibration.require_shape(data.dimension, len(groups))
    return kind(
        method=method,
        field=method.field(networks.build(described.network), data),
        network=described.network,
        statistics=statistics,
        shape=data.shape,
        groups=groups,
        about=described.about,
        calibration=calibration,
    )


def _tilt(described: Description, direction: Tensor | None) -> Tilt | None:
    """The tilt of a description; None without one.

    Raises:
        KeyError, TypeError, ValueError, ConfigError: the tilt does not fit the model.
    """
    if described.tilt is None:
        return None
    if direction is None or tuple(direction.shape) != described.shape:
        raise ValueError("its tilt has no direction of the shape of a datum")
    tilt = Tilt.from_dict(described.tilt, direction)
    if tilt.shifts:
        methods.require("tilt", described.method, "its tilt")
    if any(len(condition) != len(described.groups) for condition in tilt.log_partitions):
        raise ValueError("its tilt belongs to other classes")
    if tilt.log_partitions and not any(max(condition, default=-1) < 0 for condition in tilt.log_partitions):
        raise ValueError("its tilt has no unconditional constant")
    return tilt


def _require_fit(field: Field, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless the tensors have exactly the names, shapes and dtypes of the field.

    Weights may be in half precision.
    """
    expected = field.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise CheckpointError(f"{path} does not fit its own description: tensor {name!r} is missing or unknown")
        found, wanted = tensors[name], expected[name]
        half = (found.dtype, wanted.dtype) == (torch.float16, torch.float32)
        if found.shape != wanted.shape or not (half or found.dtype == wanted.dtype):
            raise CheckpointError(
                f"{path} does not fit its own description: {name!r} is {found.dtype} {tuple(found.shape)}, "
                f"not {wanted.dtype} {tuple(wanted.shape)}"
            )


def _raw_weights(model_path: Path, weights: str) -> dict[str, Tensor]:
    """The weights of the optimiser, from the saved state in the folder of a model."""
    if weights not in WEIGHTS:
        raise ConfigError(f"unknown weights {weights!r}", hint=f"weights: {', '.join(WEIGHTS)}")
    run = Run.of(model_path)
    if run is None or not run.state.is_file():
        raise CheckpointError(f"no raw weights for {model_name(model_path)}", hint="only a run folder has them")
    stored = container.read(run.state, "state")
    tensors = version_1.state_tensors(stored.tensors) if stored.document["format"] == 1 else stored.tensors
    return {name.removeprefix("network/"): tensor for name, tensor in tensors.items() if name.startswith("network/")}
