"""Tilts that are kept in a model file, and the statistics that people type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from vpfb_core import data
from vpfb_core.data import InMemory, LoadOptions
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.model import model_file
from vpfb_core.model.lock import changing
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.calibration import training_images
from vpfb_core.uses.matching.measures import Measures, groups_of
from vpfb_core.uses.matching.tilting import Targets, fit, samples_for

NONE = "none"  # typed in place of statistics, it removes the tilt
KEPT = 4  # how many times as many samples a kept tilt is fitted to
IMAGES = 4096  # the largest number of data whose statistics are the targets


def read_targets(texts: Iterable[str]) -> dict[str, float]:
    """The means of statistics from texts such as "brightness=0.4".

    Raises:
        ConfigError: a text has another form, or a statistic occurs twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--match {text} has no value", hint="the mean that samples should have: brightness=0.4")
        if name.strip() in found:
            raise ConfigError(f"--match {name.strip()} is given twice")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"--match {text}: {value!r} is not a number", hint="brightness=0.4") from None
    return found


def match_file(
    path: Path,
    texts: Iterable[str],
    source: str | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 256,
    on_data: Callable[[InMemory], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    **options: Any,
) -> None:
    """Fit a tilt to the model of a file and keep it there in place of an earlier one, or remove the tilt.

    Args:
        path: the model file.
        texts: names of statistics, whose targets are the means over the data; statistics with a value, such as
            "brightness=0.4"; or "none" alone. A text may contain several, separated by commas.
        source: the data; None is the data that the model was trained on.
        seed: the seed of the samples.
        device: the device of the computation, as in `vpfb_core.load`.
        batch_size: the number of samples that are computed at once.
        on_data: called with the data before they are used.
        on_progress: as in `fit`.
        options: root and download, as in `data.load`.
    Raises:
        ConfigError: the model is a built-in one, a statistic does not exist, or no samples have its mean.
        CheckpointError: the file is damaged.
        DataError: the data cannot be read, or the file cannot be written.
    """
    wanted = list(texts)
    with changing(path):
        model = model_file.load(TrainedModel, path, device=device)
        if wanted == [NONE]:
            if source is not None:
                raise ConfigError(f"--data {source} has no use with --match none")
            model_file.save(model.with_tilt(None), path)
            return
        named, given = divided(model, wanted)
        if source is not None and not named:
            raise ConfigError(f"--data {source} has no use: every statistic has a value")
        targets = Targets(given)
        if named:
            Measures.of(model, named)  # refuses unknown names before the data are read
            real = of_data(model, source, seed, **options)
            if on_data is not None:
                on_data(real)
            found = Targets.of_data(model, real, named)
            targets = Targets(dict(found.means) | given, found.count)
        require_unconditional(model)
        tilt = fit(
            model, targets, seed=seed, count=KEPT * samples_for(model), batch_size=batch_size, on_progress=on_progress
        )
        model_file.save(model.with_tilt(tilt), path)


def require_unconditional(model: TrainedModel) -> None:
    """Refuse a model whose unconditional field was not trained, whose samples without a class a kept tilt needs."""
    model.require_null("a tilt that is kept")


def divided(model: TrainedModel, texts: Iterable[str]) -> tuple[list[str], dict[str, float]]:
    """The statistics without a value, and those with a value, from texts that may contain several of them.

    Raises:
        ConfigError: a text has another form, "none" stands beside other names, or a name is given twice.
    """
    columns = {column for group in groups_of(model).values() for column in group.columns}
    parts: list[str] = []
    for text in texts:
        whole = text if text in columns or "," not in text else text.rpartition("=")[0]
        if whole in columns and "," in whole:  # the name of a class may contain a comma
            parts.append(text)
        else:
            parts += [part.strip() for part in text.split(",") if part.strip()]
    if NONE in parts:
        raise ConfigError("--match none removes the tilt, so it takes no other statistics")
    valued = [part for part in parts if "=" in part and part not in columns]
    named = [part for part in parts if part not in valued]
    if not parts:
        raise ConfigError("--match names no statistic", hint="for example --match contrast,edges")
    given = read_targets(valued)
    if twice := [column for column in Measures.of(model, named).columns if column in given]:
        raise ConfigError(f"--match {twice[0]} is given twice")
    return named, given


def of_data(model: TrainedModel, source: str | None, seed: int, **options: Any) -> InMemory:
    """The data whose statistics are the targets, at most `IMAGES` of them, in the shape of the model.

    Args:
        model: the model.
        source: the name of a data set, a folder or a file; None is the data that the model was trained on.
        seed: the seed of the choice.
        options: root and download, as in `data.load`.
    """
    if source is None:
        found = training_images(model, **options)
    else:
        found = data.find(source, LoadOptions(**model.reading, stream=True, **options))
    rows = torch.randperm(len(found), generator=noise.generator(seed, "matched data"))[:IMAGES].sort().values
    return found.subset(rows)
