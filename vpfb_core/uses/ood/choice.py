"""The model that scores a data set, and the images of a data set that make a fair test of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpfb_core import data
from vpfb_core.data.catalogue import SETS, has_splits, split_off
from vpfb_core.data.images import ImageSet
from vpfb_core.errors import CheckpointError, ConfigError, VPFBError
from vpfb_core.model import description
from vpfb_core.model.runs import builtin_models, list_runs

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel


@dataclass(frozen=True)
class Choice:
    """A model file; `trained_on` names its data if that is not the data asked for, and is None otherwise."""

    path: Path
    trained_on: str | None


def choose_model(source: str) -> Choice:
    """Choose the newest run trained on `source`, else the built-in model of it, else the newest run.

    Raises:
        CheckpointError: there is no run at all; the hint is the command that trains one.
    """
    newest: Choice | None = None
    for run in list_runs():
        if (trained_on := _trained_on(run.model)) is None:
            continue
        if same_set(trained_on, source):
            return Choice(run.model, None)
        newest = newest or Choice(run.model, trained_on)
    if (builtin := builtin_models().get(identity(source))) is not None:  # named after their data
        return Choice(builtin, None)
    if newest is None:
        raise CheckpointError(
            f"no model has been trained on {source!r}, and there are no other runs under ./runs",
            hint=f"vpfb train --data {split_off(source)[0]}",
        )
    return newest


def identity(source: str) -> str:
    """One spelling for each data set: aliases, splits and ways to write a path make no difference."""
    name = data.canonical(source)
    if name in SETS:
        return name
    plain, _ = split_off(source)
    if plain.partition(":")[0] != plain and not Path(plain).exists():  # shuffled:NAME
        return name
    return str(Path(plain).expanduser().resolve())


def same_set(one: str, other: str) -> bool:
    """Whether two sources are the same data set, perhaps in different splits."""
    return identity(one) == identity(other)


def part_of(source: str, default: str) -> str | None:
    """The split that a source names, else `default` if the data set has splits, else None: the whole set."""
    return split_off(source)[1] or (default if has_splits(source) else None)


def check_different(in_source: str, out_source: str) -> None:
    """Refuse to compare a set with itself; its training split may be compared with its test split.

    Raises:
        ConfigError: both are the same.
    """
    if same_set(in_source, out_source) and part_of(in_source, "test") == part_of(out_source, "test"):
        raise ConfigError(f"--in {in_source} and --out {out_source} are the same set", hint="name another --out")


def load_in_distribution(model: TrainedModel, source: str, limit: int | None, **options: Any) -> ImageSet:
    """Load in-distribution images in the model's shape: the test split if there is one.

    Training images score too well. If the images are those that the model was trained on, only its validation images
    are kept; if that cannot be found out, a note says so.

    Args:
        limit: the largest number of images.
        options: root, download, workers as in `data.load`.
    """
    trained = str(model.about.get("data", {}).get("name"))
    if not same_set(trained, source) or {part_of(trained, "train"), part_of(source, "test")} == {"train", "test"}:
        return load_out_of_distribution(model, source, limit, **options)
    channels, size, _ = model.shape
    everything = data.LoadOptions(
        size=size, channels=channels, split="test", conditional=bool(model.groups), stream=True, **options
    )
    images = data.find(source, everything)
    rows = torch.arange(len(images))
    note = "the model may have been trained on these images, so the figures are optimistic"
    if (parts := model.split_of(images)) is not None and 0 < len(parts[1]) < len(images):
        rows = parts[1]
        note = f"the model was trained on this set, so only its {len(rows):,} validation images are used"
    chosen = rows[data.LoadOptions(limit=limit).rows(len(rows))]
    return replace(images.subset(chosen), notes=(*images.notes, note))


def load_out_of_distribution(model: TrainedModel, source: str, limit: int | None, **options: Any) -> ImageSet:
    """Load the test split of any data set in the model's shape: centre-cropped, resized (Lanczos), in its channels."""
    channels, size, _ = model.shape
    return data.load(source, size=size, channels=channels, split="test", limit=limit, **options)


def _trained_on(path: Path) -> str | None:
    try:
        return description.read(path).data
    except VPFBError:
        return None
