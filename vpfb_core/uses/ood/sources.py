"""The in-distribution and the out-of-distribution data of a fair test of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vpfb_core import data
from vpfb_core.data.catalogue import part_of, same_set
from vpfb_core.data.in_memory import InMemory
from vpfb_core.errors import ConfigError, counted

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel


def check_different(in_source: str, out_source: str) -> None:
    """Raise ConfigError if both sources are the same split of the same data set.

    The training split of a data set may be compared with its test split.

    Raises:
        ConfigError: both are the same.
    """
    if same_set(in_source, out_source) and part_of(in_source, "test") == part_of(out_source, "test"):
        raise ConfigError(f"`in={in_source}` and `out={out_source}` are the same set", hint="name another `out`")


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
        validation = counted(len(rows), "validation images")
        note = f"the model was trained on this set, so it is represented by its {validation}"
    limited = data.LoadOptions(limit=limit)
    chosen = rows[limited.rows(len(rows))]
    return replace(images.subset(chosen), notes=(*images.notes, note, *limited.cut(len(rows))))


def load_out_of_distribution(model: TrainedModel, source: str, limit: int | None, **options: Any) -> InMemory:
    """Load images in the shape of a model, from the test split if there is one.

    Images are cropped to the centre square, resized (Lanczos) and converted to the channels of the model. Arguments are
    those of `load_in_distribution`.
    """
    return data.load(source, **model.reading, split="test", limit=limit, **options)
