"""Real images to hold against a model: as many as are compared, and those that its training never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpfb_core import data
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.uses.ood import choice

if TYPE_CHECKING:
    from vpfb_core.data import Source
    from vpfb_core.model.trained import TrainedModel

ON_A_GPU = 10_000  # images compared, unless told otherwise
ON_A_CPU = 1_000  # of up to 20×20 pixels, and fewer of larger ones: a minute or two on a laptop
_PIXELS_ON_A_CPU = 400_000
FEWEST_ON_A_CPU = 100


@dataclass(frozen=True)
class Real:
    """Real images of a model's shape.

    Attributes:
        images: uint8 (N, C, H, W), to compare samples with.
        split: which part of the set they are: test, train or all.
        unseen: uint8 (M, C, H, W), for what is measured on real images alone: those that the model's training held
            out, where that is known, else the same ones.
        unseen_labels: int64 (M, G) of those, if they have the classes of the model; None without.
        unseen_split: which part of the set those are.
        resize: how they were brought to the model's shape.
        notes, warnings: in plain words, what was decided, and what makes figures other than expected.
    """

    images: Tensor
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
    """Images of a set in the model's shape, from its test split where it has one.

    Args:
        source: a data set's name, with :train or :test where one split is meant, a folder or a file.
        n: how many; None is as many as this device compares in a minute or two.
        fewest: how many it must be.
        root, download: as in `data.load`.
    Raises:
        DataError: it cannot be read, or has too few images.
        ConfigError: n is less than `fewest`.
    """
    if n is not None and n < fewest:
        raise ConfigError(f"-n {n} is too few for these metrics", hint=f"they take at least {fewest}")
    trained_on = str(model.about.get("data", {}).get("name"))
    same = choice.same_set(trained_on, source)
    channels, size, _ = model.shape
    options = data.LoadOptions(
        # Labels are a part of what a conditional model's training set is recognised by.
        size=size, channels=channels, split="test", conditional=same and bool(model.groups), root=root,
        download=download, stream=True,
    )  # fmt: skip
    found = data.find(source, options)
    count = _count(found, n, fewest, model)
    rows = data.LoadOptions(limit=count).rows(len(found))
    compared = found.subset(rows)
    images = compared.images
    if len(images) < fewest:  # files on disk that turn out to be unreadable
        raise DataError(f"only {len(images)} images of '{source}' can be read", hint=f"at least {fewest} are needed")
    split = choice.part_of(source, "test") or "all"
    unseen, unseen_split, warnings = compared, split, []
    parts = model.split_of(found) if same else None
    if parts is not None:
        warnings.append(
            "the model was trained on these very images: what compares samples with them cannot tell learning from "
            "copying"
        )
        if 0 < len(parts[1]) < len(found):
            chosen = parts[1][data.LoadOptions(limit=count).rows(len(parts[1]))]
            unseen, unseen_split = found.subset(chosen), "held out"
    elif same and choice.part_of(trained_on, "train") == choice.part_of(source, "test"):
        warnings.append("the model may have been trained on these very images, so that its figures are optimistic")
    elif not same:
        warnings.append(f"the model was trained on {trained_on!r}, not on {source!r}")
    rule = f"centre square, Lanczos to {size}×{size}, {'grey' if channels == 1 else 'colour'}"
    labels = unseen.labels if found.groups == model.groups else None
    return Real(images, split, unseen.images, labels, unseen_split, rule, found.notes, tuple(warnings))


def _count(found: Source, n: int | None, fewest: int, model: TrainedModel) -> int:
    """How many images to compare."""
    there = len(found)
    if there < (n or fewest):
        raise DataError(
            f"'{found.name}' has {there:,} image{'s' if there > 1 else ''}, and {n or fewest:,} are needed",
            hint=f"ask for -n {there}, or take a larger set" if there >= fewest else "take a larger set",
        )
    return n or min(usual_count(model.device, model.shape), there)


def usual_count(device: torch.device, shape: tuple[int, ...]) -> int:
    """How many images of (C, H, W) are compared on this kind of device unless told otherwise."""
    if device.type != "cpu":
        return ON_A_GPU
    affordable = _PIXELS_ON_A_CPU // (shape[1] * shape[2])
    return max(FEWEST_ON_A_CPU, min(ON_A_CPU, affordable // 100 * 100))
