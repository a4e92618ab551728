"""What a run keeps so that it can go on: the state file, the one before it, and the lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vpfb_core import checkpoint
from vpfb_core.errors import CheckpointError, ConfigError, DataError
from vpfb_core.files import write_bytes
from vpfb_core.runs import Run


@dataclass
class Counters:
    """Where a run is.

    All its random numbers follow from (seed, step, rollbacks), so there is no generator to keep.
    """

    step: int = 0
    seconds: float = 0.0
    rollbacks: int = 0


@dataclass(frozen=True)
class State:
    """A state as it was read."""

    tensors: dict[str, Tensor]
    counters: Counters
    document: dict[str, Any]


def save_state(run: Run, tensors: dict[str, Tensor], counters: Counters, about: dict[str, Any], keep: int) -> None:
    """Write the newest state; the `keep` before it stay as state.1, state.2, …

    The new file is whole and on disk before an old one moves, so there is a good state at every moment.
    """
    pending = run.path / ".state.new"
    checkpoint.write(pending, "state", tensors, {"counters": asdict(counters), **about})
    try:
        for age in range(keep, 0, -1):
            if run.earlier_state(age - 1).exists():
                run.earlier_state(age - 1).replace(run.earlier_state(age))
        pending.replace(run.state)
    except OSError as error:
        raise DataError(f"cannot write {run.state}: {error.strerror or error}") from error


def read_state(run: Run) -> State | None:
    """The newest state that is whole, or None if none was ever written.

    Raises:
        CheckpointError: there are states, but every one is damaged.
    """
    age, failure = 0, None
    while (path := run.earlier_state(age)).exists() or age == 0:
        if path.exists():
            try:
                stored = checkpoint.read(path, "state")
                return State(stored.tensors, Counters(**stored.document["counters"]), stored.document)
            except CheckpointError as error:
                failure = failure or error
            except (KeyError, TypeError) as error:
                failure = failure or CheckpointError(f"{path} does not say where the run is: {error}")
        age += 1
    if failure is not None:
        raise failure
    return None


def write_status(run: Run, status: str, counters: Counters, requested: dict[str, Any]) -> None:
    """The sidecar that people and scripts read: status (running, interrupted, diverged, finished), step, seconds."""
    content = {"status": status, **asdict(counters), "requested": requested}
    write_bytes(run.progress, (json.dumps(content, indent=1) + "\n").encode())


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the run for this process; the lock goes with the process, however it ends.

    Raises:
        ConfigError: another process trains here.
    """
    with _opened(run.lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = run.lock.read_text().strip()
            raise ConfigError(
                f"another process (pid {holder}) is training in {run.path}", hint="wait for it, or choose another --out"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _opened(path: Path) -> Any:
    try:
        return path.open("a+", encoding="ascii")
    except OSError as error:
        raise DataError(f"cannot write in {path.parent}: {error.strerror or error}") from error
