"""What a run is resumed from: a saved state, or its finished model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from vpfb_core.config import as_json, located
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.model import model_file
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.continuation import LENGTH, SOURCE
from vpfb_core.training.record import Record
from vpfb_core.training.state import Restored, read_state


def restore(record: Record) -> Restored | None:
    """The newest undamaged state of a run, or None if none was saved.

    Raises:
        ConfigError: the run began with other data or settings.
        CheckpointError: every state is damaged or was deleted, or the newest undamaged one is incomplete.
    """
    state = read_state(record.folder)
    if state is None:
        if record.folder.model.exists():  # a new beginning would replace it
            raise CheckpointError(
                f"{record.folder.state} is missing, so that the run cannot go on, and its model would be replaced",
                hint="begin another run from its weights: `init=MODEL` with `out=FOLDER`",
            )
        return None
    restored = Restored.of(state)
    kept = state.document
    if not isinstance(kept.get("data"), str) or not isinstance(kept.get("config", {}), dict):
        raise CheckpointError(f"{state.path} is incomplete: its data or settings are missing")
    _require_same_run(record, kept["data"], kept.get("config", {}))
    for _, damage in state.damaged:
        went_on = f"going on from step {state.counters.step}, the save before it"
        warnings.warn(f"{damage.message}; {went_on}", stacklevel=2)
    if state.path == record.folder.state:
        record.saved = replace(state.counters)  # a copy, since the counters of the run change
    return restored


def _require_same_run(record: Record, fingerprint: str, config: dict[str, Any]) -> None:
    """Raise ConfigError unless data and settings are those with which the run began."""
    if fingerprint != record.fingerprint:
        raise ConfigError(
            f"the data {record.plan.config.data.source!r} have changed since the run {record.folder.path} began",
            hint="restore the data, or begin another run with `out=FOLDER`",
        )
    saved = as_json(located(config))  # files of version 1 have settings without sections
    for path, value in record.decisive().items():
        if path not in (*LENGTH, SOURCE) and saved.get(path, value) != value:  # the fingerprint stands for the source
            raise ConfigError(
                f"{record.folder.config} has {path} = {value}, but the run began with {saved[path]}",
                hint=f"set {path} = {saved[path]} there, or begin another run with `out=FOLDER`",
            )


def read_calibration(record: Record, model: TrainedModel) -> bool:
    """Give a model, in place, the calibration and the reference in the model file of its finished run.

    Returns:
        False if the file cannot be read, so that the model must be calibrated again.
    Raises:
        CheckpointError: the file cannot be read, and no state was saved either.
    """
    try:
        finished = model_file.load(TrainedModel, record.folder.model, device=record.plan.config.machine.device)
    except CheckpointError as error:
        if not model.about["step"]:
            raise
        warnings.warn(f"{error.message}; the model is calibrated and written again", stacklevel=2)
        return False
    model.take_calibration(finished.untilted.calibration)
    model.reference = finished.reference
    if finished.tilt is not None:
        vars(model).update(vars(replace(model).with_tilt(finished.tilt)))  # the copy stays as the model without it
    return True
