"""Which model judges a set, and which of its images are fair to judge it by."""

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
    from vpfb_core.model.trained import Model


@dataclass(frozen=True)
class Choice:
    """A model file, and the data that it was trained on where that is not what was asked for."""

    path: Path
    trained_on: str | None


def choose_model(source: str) -> Choice:
    """The newest run trained on `source`, or the built-in model of it; else the newest run.

    Raises:
        CheckpointError: there is no run at all; the hint is the command that makes one.
    """
    newest: Choice | None = None
    for run in list_runs():
        if (trained_on := _trained_on(run.model)) is None:
            continue
        if same_set(trained_on, source):
            return Choice(run.model, None)
        newest = newest or Choice(run.model, trained_on)
    if (builtin := builtin_models().get(identity(source))) is not None:  # they are named after what they learned
        return Choice(builtin, None)
    if newest is None:
        raise CheckpointError(
            f"no model has been trained on {source!r}, nor on anything else under ./runs",
            hint=f"vpfb train --data {split_off(source)[0]}",
        )
    return newest


def identity(source: str) -> str:
    """What set a source is, however it was written; splits make no difference."""
    name = data.canonical(source)
    if name in SETS:
        return name
    plain, _ = split_off(source)
    if plain.partition(":")[0] != plain and not Path(plain).exists():  # shuffled:NAME
        return name
    return str(Path(plain).expanduser().resolve())


def same_set(one: str, other: str) -> bool:
    """Whether two sources are one set: aliases, splits and ways to write a path make no difference."""
    return identity(one) == identity(other)


def part_of(source: str, unsaid: str) -> str | None:
    """Which part of a set a source means: the split that it names, else `unsaid` where there are two, else all."""
    return split_off(source)[1] or (unsaid if has_splits(source) else None)


def check_different(members: str, strangers: str) -> None:
    """Refuse to compare a set with itself; its training with its test split is a fair question.

    Raises:
        ConfigError: both are the same.
    """
    if same_set(members, strangers) and part_of(members, "test") == part_of(strangers, "test"):
        raise ConfigError(f"--in {members} and --out {strangers} are the same set", hint="name another --out")


def load_members(model: Model, source: str, limit: int | None, **options: Any) -> ImageSet:
    """In-distribution images of the model's shape: the test split where there is one.

    Where what is loaded turns out to be what the model was trained on, only the images that its training held out are
    kept, since training images score too well; where that cannot be told, a note says so.

    Args:
        limit: at most so many.
        options: root, download, workers as in `data.load`.
    """
    trained = str(model.about.get("data", {}).get("name"))
    if not same_set(trained, source) or {part_of(trained, "train"), part_of(source, "test")} == {"train", "test"}:
        return load_strangers(model, source, limit, **options)
    channels, size, _ = model.shape
    everything = data.LoadOptions(
        size=size, channels=channels, split="test", conditional=bool(model.groups), stream=True, **options
    )
    images = data.find(source, everything)
    rows = torch.arange(len(images))
    note = "the model may have been trained on these very images, so the figures are optimistic"
    if (parts := model.split_of(images)) is not None and 0 < len(parts[1]) < len(images):
        rows = parts[1]
        note = f"the model was trained on this: only the {len(rows):,} images that it held out are judged"
    chosen = rows[data.LoadOptions(limit=limit).rows(len(rows))]
    return replace(images.subset(chosen), notes=(*images.notes, note))


def load_strangers(model: Model, source: str, limit: int | None, **options: Any) -> ImageSet:
    """Images of any set in the model's shape: centre-cropped, resized (Lanczos), in its channels; the test split."""
    channels, size, _ = model.shape
    return data.load(source, size=size, channels=channels, split="test", limit=limit, **options)


def _trained_on(path: Path) -> str | None:
    try:
        return str(description.read(path)["about"]["data"]["name"])
    except (VPFBError, KeyError):
        return None
