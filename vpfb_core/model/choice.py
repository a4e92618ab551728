"""The choice of a model for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpfb_core import data, methods
from vpfb_core.data.catalogue import same_set, split_off
from vpfb_core.errors import CheckpointError, VPFBError
from vpfb_core.machine.file_names import typed
from vpfb_core.model import description
from vpfb_core.model.runs import builtin_models, list_runs

PREVIEW = 64  # the largest size of images that are ranked without a model


def choose_model(source: str) -> Path:
    """The newest run that was trained on `source`, else the built-in model of that data, else the newest run.

    Raises:
        CheckpointError: there is no run and no built-in model; the hint is the command that trains one.
    """
    newest: Path | None = None
    for run in list_runs():
        if (trained_on := _trained_on(run.model)) is None:
            continue
        if same_set(trained_on, source):
            return run.model
        newest = newest or run.model
    if (found := _builtin(source) or newest) is None:
        raise CheckpointError(
            f"no model has been trained on {source!r}, and there are no other runs under ./runs",
            hint=f"vpfb train --data {typed(split_off(source)[0])}",
        )
    return found


def fitting_model(source: str, **options: Any) -> Path | None:
    """The model by which the data of a source are ranked; None if no model fits.

    It is the newest run with an energy that was trained on the source, else the built-in model of that data, else the
    newest such run of data of the same kind: of images with as many channels, or of a table.

    Args:
        source: the name of a data set, a folder or a file.
        options: root, download and workers, as in `data.load`.
    Raises:
        DataError: the source cannot be read.
    """
    runs = [(run.model, header) for run in list_runs() if (header := _with_energy(run.model)) is not None]
    for path, header in runs:
        if header.data is not None and same_set(header.data, source):
            return path
    if (builtin := _builtin(source)) is not None:
        return builtin
    if not runs:
        return None
    shape = data.find(source, data.LoadOptions(stream=True, max_size=PREVIEW, **options)).shape
    kind = description.IMAGES if len(shape) == 3 else description.TABLE
    for path, header in runs:
        if header.kind == kind and (kind == description.TABLE or header.shape[0] == shape[0]):
            return path
    return None


def _builtin(source: str) -> Path | None:
    """The built-in model that was trained on a source; None if there is none."""
    return next(
        (path for path in builtin_models().values() if (known := _trained_on(path)) and same_set(known, source)), None
    )


def _with_energy(path: Path) -> description.Description | None:
    """The description of a model with an energy; None if it has none or cannot be read."""
    try:
        header = description.read_header(path)
        return header if methods.gives(header.method, "energy") else None
    except VPFBError:
        return None


def _trained_on(path: Path) -> str | None:
    """The name of the training data of a model file; None if the file cannot be read."""
    try:
        return description.read_header(path).data
    except VPFBError:
        return None
