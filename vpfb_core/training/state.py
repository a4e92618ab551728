"""The saved states of a run, from which it can be resumed."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vpfb_core.errors import CheckpointError, DataError
from vpfb_core.machine import container
from vpfb_core.machine.files import write_bytes
from vpfb_core.model.runs import Run


@dataclass
class Counters:
    """The progress of a run.

    All random numbers of a run follow from (seed, step, rollbacks), so that no state of a generator is saved.
    """

    step: int = 0
    seconds: float = 0.0
    rollbacks: int = 0


@dataclass(frozen=True)
class State:
    """A state that was read from a file.

    Attributes:
        path: the path of the file.
        tensors: the tensors of the trainer by name.
        counters: the progress of the run.
        document: the JSON values that were saved with the tensors, by name.
        format_version: the format version of the file.
        damaged: the paths of newer states, which are damaged, and their errors; the newest first.
    """

    path: Path
    tensors: dict[str, Tensor]
    counters: Counters
    document: dict[str, Any]
    format_version: int
    damaged: tuple[tuple[Path, CheckpointError], ...]


def save_state(run: Run, tensors: dict[str, Tensor], counters: Counters, about: dict[str, Any], keep: int) -> None:
    """Write a new state, and keep up to `keep` earlier ones as state.1, state.2, …

    The new file is complete and on disk before an old one is renamed, so that there is a good state at every moment.

    Args:
        run: the run folder.
        tensors: the tensors of the trainer by name.
        counters: the progress of the run.
        about: JSON values to save with the tensors, by name.
        keep: the number of earlier states to keep.
    Raises:
        DataError: the folder cannot be written.
    """
    pending = run.path / ".state.new"
    container.write(pending, "state", tensors, {"counters": asdict(counters), **about})
    for age in range(keep, 0, -1):
        if run.earlier_state(age - 1).exists():
            _rename(run.earlier_state(age - 1), run.earlier_state(age))
    _rename(pending, run.state)


def read_state(run: Run) -> State | None:
    """The newest undamaged state, or None if none was saved.

    Raises:
        CheckpointError: there are states, but all of them are damaged.
    """
    damaged: list[tuple[Path, CheckpointError]] = []
    for path in _states(run):
        try:
            stored = container.read(path, "state")
            counters, version = _counters(stored.document, path), stored.document["format"]
            return State(path, stored.tensors, counters, stored.document, version, tuple(damaged))
        except CheckpointError as error:
            damaged.append((path, error))
    if damaged:
        raise damaged[0][1]
    return None


@dataclass(frozen=True)
class Restored:
    """A state and the figures that were saved with it. A figure that was not measured is NaN.

    Attributes:
        state: the state.
        validation: the validation figures by name.
        sample_accuracy: the sample accuracy of the newest grid.
        best: the lowest value of the first validation figure.
        check_seconds: the duration of the last check.
        calibration_seconds: the expected duration of the calibration.
    """

    state: State
    validation: dict[str, float]
    sample_accuracy: float
    best: float
    check_seconds: float
    calibration_seconds: float

    @classmethod
    def of(cls, state: State) -> Restored:
        """The figures in the document of a state. Raises CheckpointError if one is missing or has the wrong type."""
        kept = state.document
        try:
            if state.format_version == 1:
                kept = kept | {
                    "validation": {"val_residual": kept.get("val_residual")},
                    "best": kept.get("best_residual"),
                    "calibration_seconds": kept["finish_seconds"],
                }
            return cls(
                state,
                {str(name): _number(value) for name, value in kept["validation"].items()},
                _number(kept.get("sample_accuracy")),
                _number(kept.get("best")),
                float(kept["check_seconds"]),
                float(kept["calibration_seconds"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{state.path} is incomplete: its figures are missing") from error


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def set_aside(run: Run, damaged: Iterable[Path]) -> None:
    """Rename damaged states, since the next save would give them the name of an earlier, undamaged one.

    Raises:
        DataError: the folder cannot be written.
    """
    for path in damaged:
        number = 1
        while (aside := run.path / f"damaged-{number}.{path.name}").exists():
            number += 1
        _rename(path, aside)


def _states(run: Run) -> list[Path]:
    """The files of all states, the newest first.

    The numbers have a gap if a process was killed while it renamed the states.
    """
    ages = [path.name.split(".")[1] for path in run.path.glob("state.*.safetensors")]
    earlier = sorted(int(age) for age in ages if re.fullmatch(r"[1-9]\d{0,3}", age))
    return [path for path in map(run.earlier_state, [0, *earlier]) if path.exists()]


def _counters(document: dict[str, Any], path: Path) -> Counters:
    try:
        counters = Counters(**document["counters"])
        whole = all(type(count) is int and count >= 0 for count in (counters.step, counters.rollbacks))
        if whole and type(counters.seconds) in (int, float) and 0 <= counters.seconds < math.inf:
            return counters
    except (KeyError, TypeError):
        pass
    raise CheckpointError(f"{path} is incomplete: its step, seconds or roll-backs are missing or invalid")


def _rename(path: Path, target: Path) -> None:
    try:
        path.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error


def write_status(
    run: Run, status: str, counters: Counters, requested: dict[str, Any], location: Mapping[str, str]
) -> None:
    """Write the status file of a run.

    Args:
        run: the run folder.
        status: "running", "interrupted", "diverged" or "finished".
        counters: the progress of the run.
        requested: the settings that the user gave, by path.
        location: where the data are (`run_data.location`).
    """
    content = {
        "status": status, **asdict(counters), "requested": requested, "data": location, "host": platform.node(),
    }  # fmt: skip
    write_bytes(run.progress, (json.dumps(content, indent=1) + "\n").encode())
