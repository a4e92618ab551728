"""The real images of an evaluation: those that samples are compared with, and those that training did not use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpfb_core import data
from vpfb_core.data.catalogue import part_of, same_set
from vpfb_core.errors import ConfigError, DataError, counted

if TYPE_CHECKING:
    from vpfb_core.data import Source
    from vpfb_core.model.trained import TrainedModel

ON_A_GPU = 10_000  # the default number of images on a GPU
ON_A_CPU = 1_000  # the default number of images of up to 20×20 pixels, which take a minute or two on a laptop
_PIXELS_ON_A_CPU = 400_000
FEWEST_ON_A_CPU = 100


@dataclass(frozen=True)
class Real:
    """Real images in the shape of a model.

    Attributes:
        images: the images that samples are compared with, uint8 (N, C, H, W).
        labels: the class indices of `images`, int64 (N, G); None if they do not have the model's classes.
        split: their split: "test", "train" or "all".
        unseen: the images for metrics of real images only, uint8 (M, C, H, W): the validation images of the model's
            training if they are known, else `images`.
        unseen_labels: the class indices of `unseen`, int64 (M, G); None if they do not have the model's classes.
        unseen_split: the split of `unseen`.
        resize: how the images were resized to the shape of the model.
        notes, warnings: sentences for the user about the choice of images and its effect on the figures.
    """

    images: Tensor
    labels: Tensor | None
    split: str
    unseen: Tensor
    unseen_labels: Tensor | None
    unseen_split: str
    resize: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def load(
    model: TrainedModel, source: str, n: int | None, *, fewest: int, root: Path | None = None, download: bool = True
) -> Real:
    """Load the real images of an evaluation, from the test split if there is one.

    Args:
        model: the model that is evaluated.
        source: the name of a data set, possibly with :train or :test, a folder or a file.
        n: the number of images; None is `usual_count`.
        fewest: the least number of images that the metrics need.
        root, download: as in `data.load`.
    Raises:
        DataError: the data cannot be read, or there are too few images.
        ConfigError: `n` is below `fewest`.
    """
    if n is not None and n < fewest:
        raise ConfigError(f"`n={n}` is too few for these metrics", hint=f"they need at least {fewest}")
    trained_on = str(model.about.get("data", {}).get("name"))
    same = same_set(trained_on, source)
    # The fingerprint by which the training data of a conditional model are recognised includes the labels.
    classes = model.class_reading if same else {}
    options = data.LoadOptions(**model.reading, **classes, split="test", root=root, download=download, stream=True)
    found = data.find(source, options)
    count = _count(found, n, fewest, model)
    rows = data.LoadOptions(limit=count).rows(len(found))
    compared = found.subset(rows)
    images = compared.data
    if len(images) < fewest:  # files on disk that turn out to be unreadable
        raise DataError(
            f"only {counted(len(images), found.noun)} of '{source}' can be read", hint=f"at least {fewest} are needed"
        )
    split = part_of(source, "test") or "all"
    unseen, unseen_split, warnings = compared, split, []
    parts = model.split_of(found) if same else None
    if parts is not None:
        warnings.append(
            f"the model was trained on these {found.noun}, so comparisons with samples cannot tell learning "
            "from copying"
        )
        if 0 < len(parts[1]) < len(found):
            chosen = parts[1][data.LoadOptions(limit=count).rows(len(parts[1]))]
            unseen, unseen_split = found.subset(chosen), "held out"
    elif same and part_of(trained_on, "train") == part_of(source, "test"):
        warnings.append(f"the model may have been trained on these {found.noun}, so its figures are optimistic")
    elif not same:
        warnings.append(f"the model was trained on {trained_on!r}, not on {source!r}")
    rule = model.statistics.reading_in_words(tuple(model.shape))
    labels, unseen_labels = (compared.labels, unseen.labels) if found.groups == model.groups else (None, None)
    return Real(images, labels, split, unseen.data, unseen_labels, unseen_split, rule, found.notes, tuple(warnings))


def _count(found: Source, n: int | None, fewest: int, model: TrainedModel) -> int:
    """The number of images that are compared."""
    there = len(found)
    if there < (n or fewest):
        raise DataError(
            f"'{found.name}' has {counted(there, found.noun)}, and {n or fewest:,} are needed",
            hint=f"ask for `n={there}`, or take a larger set" if there >= fewest else "take a larger set",
        )
    return n or min(usual_count(model.device, model.shape), there)


def usual_count(device: torch.device, shape: tuple[int, ...]) -> int:
    """The default number of data of shape (C, H, W) or (d,) on this kind of device."""
    if device.type != "cpu":
        return ON_A_GPU
    affordable = _PIXELS_ON_A_CPU // math.prod(shape[1:])
    return max(FEWEST_ON_A_CPU, min(ON_A_CPU, affordable // 100 * 100))
