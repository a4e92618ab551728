"""Going on with a run: what its folder holds, and whether that is the run that was meant."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.model.loading import load
from vpfb_core.model.trained import Model
from vpfb_core.training.record import Record
from vpfb_core.training.state import State, read_state


@dataclass(frozen=True)
class Restored:
    """A state, and the figures that were saved with it."""

    state: State
    val_residual: float
    sample_accuracy: float
    best_residual: float
    check_seconds: float
    finish_seconds: float


def restore(record: Record) -> Restored | None:
    """The newest whole state of a run, or None if it has not begun.

    Raises:
        ConfigError: the run was begun with other data or settings.
        CheckpointError: every state is damaged, or the one that is whole says too little.
    """
    state = read_state(record.folder)
    if state is None:
        return None
    kept = state.document
    try:
        _require_same(record, kept["data"], kept.get("config", {}))
        figures = (kept.get(name) for name in ("val_residual", "sample_accuracy", "best_residual"))
        residual, accuracy, best = (math.nan if figure is None else float(figure) for figure in figures)
        seconds = float(kept["check_seconds"]), float(kept["finish_seconds"])
        restored = Restored(state, residual, accuracy, best, *seconds)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{state.path} does not say what it is the state of") from error
    for _, damage in state.damaged:
        went_on = f"going on from step {state.counters.step}, the save before it"
        warnings.warn(f"{damage.message}; {went_on}", stacklevel=2)
    if state.path == record.folder.state:
        record.saved = replace(state.counters)  # these count on
    return restored


def _require_same(record: Record, fingerprint: str, config: dict[str, Any]) -> None:
    """A run goes on with the data and the settings that it was begun with."""
    if fingerprint != record.fingerprint:
        raise ConfigError(
            f"the data {record.plan.config.data!r} is not what {record.folder.path} was begun with",
            hint="bring the images back as they were, or begin another run",
        )
    for name, value in record.decisive().items():
        if config.get(name, value) != value:
            raise ConfigError(
                f"{record.folder.config} has {name} = {value}, but the run was begun with {config[name]}",
                hint="put it back as it was, or begin another run",
            )


def take_over(record: Record, model: Model) -> bool:
    """Give the model of a finished run what finishing measured; False if its file is lost, but not the weights."""
    try:
        finished = load(record.folder.model, device=record.plan.config.device)
    except CheckpointError as error:
        if not model.about["step"]:
            raise
        warnings.warn(f"{error.message}; it is made anew", stacklevel=2)
        return False
    model.normaliser, model.reference = finished.normaliser, finished.reference
    return True
