"""A model from its file: built from its description, every tensor checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpfb_core import networks
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.statistics import Statistics
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import container as checkpoint
from vpfb_core.machine.devices import place_network, resolve_device
from vpfb_core.methods.vpfb import homotopy
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model import description
from vpfb_core.model.runs import Run, find_model
from vpfb_core.model.trained import POTENTIALS, REFERENCE, Model
from vpfb_core.uses.ood.reference import Reference


def load(name: str | os.PathLike[str] | None = None, *, device: str = "auto", weights: str = "ema") -> Model:
    """Load a model: a .safetensors file, a run folder, or a built-in name; None as `runs.find_model` says.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        weights: "ema", or "raw" for the weights that the optimiser holds (a run folder has them).
    Raises:
        CheckpointError: missing, damaged, or not a model that this version can build.
        ConfigError: no such device.
    """
    target = resolve_device(device)
    path = find_model(name)
    stored = checkpoint.read(path, "model")
    network = {
        networks.current_name(name): tensor for name, tensor in stored.tensors.items() if not name.startswith(REFERENCE)
    }
    reference = {
        name.removeprefix(REFERENCE): stored.tensors[name] for name in stored.tensors if name.startswith(REFERENCE)
    }
    network = network if weights == "ema" else _raw_weights(path, weights)
    description.require(stored.document, path)
    try:
        with torch.device("meta"):  # without memory: the description may claim any size, the tensors have theirs
            sketch = _build(stored.document)
        _require_one_shape(sketch)
        _require_fit(sketch.potential, network, path)
        model = _build(stored.document)
        model.reference = Reference.from_tensors(reference) if reference else None
        if weights != "ema":
            model.normaliser = model.reference = None  # they belong to the averaged weights
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} describes a model that this version cannot build: {error}") from error
    model.potential.network.load_state_dict(network)
    place_network(model.potential, target)
    model.potential.eval().requires_grad_(False)
    return model


def _build(document: dict[str, Any]) -> Model:
    network = networks.build(document["network"])
    schedule = homotopy.from_dict(document["homotopy"])
    channels, height, width = document["shape"]
    return Model(
        potential=POTENTIALS[document["potential"]](network, schedule, float(document["data_std"])),
        network=document["network"],
        statistics=Statistics(tuple(document["statistics"]["mean"]), document["statistics"]["std"]),
        shape=(channels, height, width),
        groups=tuple(ConditionGroup(group["name"], tuple(group["classes"])) for group in document["groups"]),
        about=document["about"],
        normaliser=Normaliser.from_dict(kept) if (kept := document.get("normaliser")) else None,
    )


def _require_one_shape(model: Model) -> None:
    """Network, statistics and classes must be of the same images."""
    channels, height, width = model.shape
    counts = [len(group.classes) for group in model.groups]
    if model.network.get("channels") != channels or not model.network.get("size") == height == width:
        raise ValueError(f"images of {model.shape} are not those of its network")
    if len(model.statistics.mean) != channels:
        raise ValueError(f"images of {model.shape} have not {len(model.statistics.mean)} means")
    if list(model.network.get("classes", ())) != counts:
        raise ValueError(f"groups of {counts} classes are not those of its network")
    if model.normaliser is not None:
        fitting = all(len(condition) == len(counts) for condition in model.normaliser.constants)
        if not fitting or model.normaliser.dimension != channels * height * width:
            raise ValueError("its normaliser is that of other images or classes")


def _require_fit(potential: Potential, tensors: dict[str, Tensor], path: Path) -> None:
    """Every name, shape and dtype must fit; nothing is left as it was drawn."""
    expected = potential.network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise CheckpointError(f"{path} does not fit its own description: tensor {name!r} is missing or unknown")
        if tensors[name].shape != expected[name].shape or tensors[name].dtype != expected[name].dtype:
            found, wanted = tensors[name], expected[name]
            raise CheckpointError(
                f"{path} does not fit its own description: {name!r} is {found.dtype} {tuple(found.shape)}, "
                f"not {wanted.dtype} {tuple(wanted.shape)}"
            )


def _raw_weights(model_path: Path, weights: str) -> dict[str, Tensor]:
    if weights != "raw":
        raise ConfigError(f"unknown weights {weights!r}", hint="weights: ema, raw")
    state = Run(model_path.parent).state
    if not state.is_file():
        raise CheckpointError(f"no raw weights for {model_path}", hint="only a run folder has them, in its state")
    stored = checkpoint.read(state, "state").tensors
    return {
        networks.current_name(name.removeprefix("network/")): tensor
        for name, tensor in stored.items()
        if name.startswith("network/")
    }
