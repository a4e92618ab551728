"""The choice of a model for a data set, and of the images of a data set that allow a fair test of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpfb_core import data, methods
from vpfb_core.data.catalogue import SETS, has_splits, split_off
from vpfb_core.data.in_memory import InMemory
from vpfb_core.errors import CheckpointError, ConfigError, VPFBError
from vpfb_core.machine.file_names import expanded, typed
from vpfb_core.model import description
from vpfb_core.model.runs import builtin_models, list_runs

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

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


def identity(source: str) -> str:
    """A name that is the same for all spellings of a data set: its aliases, its splits and the forms of its path."""
    name = data.canonical(source)
    if name in SETS:
        return name
    plain, _ = split_off(source)
    if plain.partition(":")[0] != plain and not Path(plain).exists():  # a made data set such as shuffled:NAME
        return name
    return str(Path(expanded(plain)).resolve())


def same_set(one: str, other: str) -> bool:
    """Whether two sources are the same data set, possibly with different splits."""
    return identity(one) == identity(other)


def part_of(source: str, default: str) -> str | None:
    """The split that a source names, else `default` if the data set has splits, else None for the whole set."""
    return split_off(source)[1] or (default if has_splits(source) else None)


def check_different(in_source: str, out_source: str) -> None:
    """Raise ConfigError if both sources are the same split of the same data set.

    The training split of a data set may be compared with its test split.

    Raises:
        ConfigError: both are the same.
    """
    if same_set(in_source, out_source) and part_of(in_source, "test") == part_of(out_source, "test"):
        raise ConfigError(f"--in {in_source} and --out {out_source} are the same set", hint="name another --out")


def load_in_distribution(model: TrainedModel, source: str, limit: int | None, **options: Any) -> InMemory:
    """Load in-distribution images in the shape of a model, from the test split if there is one.

    Training images would make the scores look better than they are. If the model was trained on these images, only its
    validation images are returned. If that cannot be determined, a note of the images says so.

    Args:
        model: the model that will score the images.
        source: the name of a data set, a folder or a file.
        limit: the largest number of images; None is no limit.
        options: root, download and workers, as in `data.load`.
    """
    trained = str(model.about.get("data", {}).get("name"))
    parts_named = {part_of(trained, "train"), part_of(source, "test")}
    if not same_set(trained, source) or (len(parts_named) == 2 and parts_named <= {"train", "val", "test"}):
        return load_out_of_distribution(model, source, limit, **options)
    everything = data.LoadOptions(**model.reading, **model.class_reading, split="test", stream=True, **options)
    images = data.find(source, everything)
    rows = torch.arange(len(images))
    note = "the model may have been trained on these images, so the figures are optimistic"
    if (parts := model.split_of(images)) is not None and 0 < len(parts[1]) < len(images):
        rows = parts[1]
        note = f"the model was trained on this set, so only its {len(rows):,} validation images are used"
    limited = data.LoadOptions(limit=limit)
    chosen = rows[limited.rows(len(rows))]
    return replace(images.subset(chosen), notes=(*images.notes, note, *limited.cut(len(rows))))


def load_out_of_distribution(model: TrainedModel, source: str, limit: int | None, **options: Any) -> InMemory:
    """Load images in the shape of a model, from the test split if there is one.

    Images are cropped to the centre square, resized (Lanczos) and converted to the channels of the model. Arguments are
    those of `load_in_distribution`.
    """
    return data.load(source, **model.reading, split="test", limit=limit, **options)


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
