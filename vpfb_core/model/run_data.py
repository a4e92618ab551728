"""Where the data of a run are. A run is moved with its data or without them, and resumed from any working folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vpfb_core.data.catalogue import absolute, exists, split_off
from vpfb_core.machine.file_names import real
from vpfb_core.model.runs import Run


def location(source: str, run: Run) -> dict[str, str]:
    """What the status of a run says about the location of its data.

    Args:
        source: the data, as they are named in the working folder.
        run: the run.
    Returns:
        The absolute path of the data (`path`), and the path relative to the run folder (`from_run`), for the case that
        both are moved together. Data that are known by a name have that name only.
    """
    path = absolute(source)
    if not Path(path).is_absolute():
        return {"path": path}
    folder, ending = (path, "") if Path(path).exists() else _without_split(path)
    return {"path": path, "from_run": os.path.relpath(folder, real(run.path)) + ending}


def recorded_path(run: Run) -> str | None:
    """The absolute path, or the name, of the data of a run when it was last trained; None if it is not known."""
    return _recorded(run).get("path")


def is_at(run: Run, source: str) -> bool:
    """Whether the data of a run were at this source when it was last trained."""
    return absolute(source) == recorded_path(run)


def find(run: Run, source: str) -> str | None:
    """The data of a run, as they are found from the working folder; None if they are at none of the known locations.

    Args:
        run: the run.
        source: the data as they were named when the run began.
    """
    recorded = _recorded(run)
    locations = [recorded.get("path"), source]
    if (relative := recorded.get("from_run")) is not None:
        locations.insert(1, os.path.normpath(run.path / relative))
    if recorded.get("path") == absolute(source):
        return source if exists(source) else None
    return next((each for each in locations if each is not None and exists(each)), None)


def _recorded(run: Run) -> dict[str, Any]:
    """The location in the status of a run; {} if it is missing or invalid."""
    recorded = run.status().get("data")
    if not isinstance(recorded, dict):
        return {}
    return {name: value for name, value in recorded.items() if isinstance(value, str)}


def _without_split(path: str) -> tuple[str, str]:
    name, split = split_off(path)
    return name, f":{split}" if split else ""
