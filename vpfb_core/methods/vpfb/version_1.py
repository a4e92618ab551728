"""Conversion of files of format version 1, which had only one method, to the current documents and tensor names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "vpfb"
_POTENTIALS = {"arc": "stein", "unpreconditioned": "official"}
_FIELD = "potential.network."  # the prefix of the network's tensors in the field of that method
_STATE_PREFIXES = ("network/", "ema/", "adam/exp_avg/", "adam/exp_avg_sq/")


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a model file in the current format. The reader refuses what does not fit."""
    if document.get("format") != 1:
        return document
    homotopy = document.get("homotopy")
    if not isinstance(homotopy, dict) or document.get("potential") not in _POTENTIALS:
        return {}
    about = document.get("about")
    config = about.get("config") if isinstance(about, dict) else None
    trained = config if isinstance(config, dict) else {}
    settings = {
        "objective": trained.get("objective", _POTENTIALS[document["potential"]]),
        "schedule": homotopy.get("name"),
        "floor": homotopy.get("nu", homotopy.get("sigma_min")),
        "data_std": document.get("data_std"),
    }
    for name in ("angle_mean", "angle_std", "condition_dropout", "contrast"):
        if name in trained:
            settings[name] = trained[name]
    return document | {
        "method": {"name": METHOD, "settings": settings},
        "calibration": document.get("normaliser"),
    }


def model_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network by their current names in the field."""
    return {_FIELD + _current(name): tensor for name, tensor in tensors.items()}


def state_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a training state by their current names."""
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _STATE_PREFIXES if name.startswith(prefix)), None)
        renamed[name if prefix is None else prefix + _FIELD + _current(name.removeprefix(prefix))] = tensor
    return renamed


def _current(name: str) -> str:
    """The current name of a tensor of the network."""
    return name.replace("embedding.angle.", "embedding.level.")
