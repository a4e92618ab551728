"""Resuming a run: reading the state in its folder, and checking that its data and settings are unchanged."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from vpfb_core.config import as_json, located
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.model import model_file
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.plan import LENGTH
from vpfb_core.training.record import Record
from vpfb_core.training.state import Restored, read_state
from vpfb_core.training.trainer import Trainer


def restore(record: Record) -> Restored | None:
    """The newest whole state of a run, or None if it has not begun.

    Raises:
        ConfigError: the run was begun with other data or settings.
        CheckpointError: every state is damaged, or the one that is whole says too little.
    """
    state = read_state(record.folder)
    if state is None:
        return None
    restored = Restored.of(state)
    kept = state.document
    if not isinstance(kept.get("data"), str) or not isinstance(kept.get("config", {}), dict):
        raise CheckpointError(f"{state.path} does not say what it is the state of")
    _require_same_run(record, kept["data"], kept.get("config", {}))
    for _, damage in state.damaged:
        went_on = f"going on from step {state.counters.step}, the save before it"
        warnings.warn(f"{damage.message}; {went_on}", stacklevel=2)
    if state.path == record.folder.state:
        record.saved = replace(state.counters)  # these count on
    return restored


def _require_same_run(record: Record, fingerprint: str, config: dict[str, Any]) -> None:
    """A run goes on with the data and the settings that it was begun with."""
    if fingerprint != record.fingerprint:
        raise ConfigError(
            f"the data {record.plan.config.data.source!r} are not those that {record.folder.path} was begun with",
            hint="bring the images back as they were, or begin another run",
        )
    begun = as_json(located(config))  # older versions wrote settings without sections
    for path, value in record.decisive().items():
        if path not in LENGTH and begun.get(path, value) != value:
            raise ConfigError(
                f"{record.folder.config} has {path} = {value}, but the run was begun with {begun[path]}",
                hint="put it back as it was, or begin another run",
            )


def take_over(record: Record, model: TrainedModel) -> bool:
    """Give the model of a finished run its calibration; False if its file is lost, but not the weights."""
    try:
        finished = model_file.load(TrainedModel, record.folder.model, device=record.plan.config.machine.device)
    except CheckpointError as error:
        if not model.about["step"]:
            raise
        warnings.warn(f"{error.message}; it is made anew", stacklevel=2)
        return False
    model.calibration, model.reference = finished.calibration, finished.reference
    return True


def start_from(trainer: Trainer, name: str) -> None:
    """Give a trainer the weights of a model: a file, a run folder, or a built-in name.

    Raises:
        CheckpointError: no such model, or one whose weights do not fit; with the first difference.
    """
    model = model_file.load(TrainedModel, name, device=str(trainer.device))
    given, wanted = model.field.state_dict(), trainer.field.state_dict()
    for tensor in sorted(given.keys() | wanted.keys()):
        if tensor not in given or tensor not in wanted:
            owner, other = (name, "this run") if tensor in given else ("this run", name)
            reason = f"{owner} has a tensor {tensor!r}, which {other} lacks"
        elif given[tensor].shape != wanted[tensor].shape:
            reason = f"{tensor!r} has shape {tuple(given[tensor].shape)}, not {tuple(wanted[tensor].shape)}"
        else:
            continue
        raise CheckpointError(
            f"the weights of {name} do not fit this run: {reason}",
            hint="use the network, size and classes of that model: vpfb info MODEL shows them",
        )
    trainer.field.load_state_dict(given)
    trainer.average.load_state_dict(given)
