"""Tilts that are kept in a model file, and the statistics that people type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from vpfb_core import data, methods, names
from vpfb_core.data import InMemory, LoadOptions, Source
from vpfb_core.data.single import read_weights
from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.machine import noise
from vpfb_core.model import model_file
from vpfb_core.model.lock import changing
from vpfb_core.model.tilt import Tilt
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.matching.tilting import Targets, fit, samples_for
from vpfb_core.uses.measuring.masks import has_mask, has_value, mask_file, statistics_in
from vpfb_core.uses.measuring.measures import Measures, groups_of, names_of
from vpfb_core.uses.training_set import training_images

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
            raise ConfigError(f"`match={text}` has no value", hint="the mean that samples should have: brightness=0.4")
        if name.strip() in found:
            raise ConfigError(f"`match={name.strip()}` is given twice")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"`match={text}`: {value!r} is not a number", hint="brightness=0.4") from None
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
) -> bool:
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
    Returns:
        Whether the file was written; False if there is no tilt to remove.
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
                raise ConfigError(f"`data={source}` has no use with `match=none`")
            if model.tilt is not None:
                model.about.pop("match_seed", None)
                model_file.save(model.with_tilt(None), path)
            return model.tilt is not None
        model.require_null("a tilt that is kept")
        named, _ = divided(model, wanted)
        if source is not None and not named:
            raise ConfigError(f"`data={source}` has no use: every statistic has a value")
        real = _real(model, source, seed, options) if named else None
        if real is not None and on_data is not None:
            on_data(real)
        tilt = kept_tilt(model, wanted, real, seed=seed, batch_size=batch_size, on_progress=on_progress)
        model.about["match_seed"] = seed
        model_file.save(model.with_tilt(tilt), path)
        return True


def _real(model: TrainedModel, source: str | None, seed: int, options: Mapping[str, Any]) -> InMemory:
    """The data of `match_file`, whose classes are not needed."""
    if source is None:
        return chosen(training_images(model, **options), seed)
    return chosen(data.find(source, LoadOptions(**model.reading, stream=True, **options)), seed)


def kept_tilt(
    model: TrainedModel,
    texts: Iterable[str],
    real: InMemory | None,
    *,
    count: int | None = None,
    masks: Path | None = None,
    **settings: Any,
) -> Tilt:
    """The tilt of a model that is to be kept.

    Args:
        model: the model.
        texts: as in `match_file`, without "none".
        real: the data whose means are the targets of statistics without a value; None if all have one.
        count: the number of samples; None is `samples_to_keep`.
        masks: a folder of copies of the files of masks (`masks.keep_masks`).
        settings: seed, batch_size and on_progress, as in `fit`.
    Raises:
        ConfigError: a statistic does not exist, or no samples have its mean.
    """
    named, given = divided(model, texts, masks=masks)
    found = Targets.of_data(model, real, named, masks=masks) if real is not None and named else Targets({})
    targets = Targets(dict(found.means) | given, found.count)
    if not methods.gives(model.method.name, "tilt"):
        for name in targets.means:
            if has_mask(name):
                raise _needs_file(name)
    return fit(model, targets, count=count or samples_to_keep(model), masks=masks, **settings)


def samples_to_keep(model: TrainedModel) -> int:
    """The number of samples to which a kept tilt is fitted on the device of the model."""
    return KEPT * samples_for(model)


def check_names(
    texts: Iterable[str], source: Source, *, densities: bool, moves: bool, masks: Path | None = None
) -> None:
    """Refuse statistics that a model of these data will not have, before it is trained.

    Args:
        texts: as in `kept_tilt`.
        source: the training data.
        densities: whether the method of the model calibrates densities of classes.
        moves: whether the method moves samples towards linear statistics.
        masks: a folder of copies of the files of masks (`masks.keep_masks`).
    Raises:
        ConfigError: a name is unknown, or a value is no number. The hint lists the names.
        DataError: the file of a mask cannot be read or does not fit.
    """
    known = names_of(tuple(source.shape), getattr(source, "columns", ()), source.groups if densities else ())
    for text in texts:
        name = next(iter(read_targets([text]))) if has_value(text) and text not in known else text
        if has_mask(name) and not getattr(source, "columns", ()):
            if not moves:
                raise _needs_file(name)
            read_weights(mask_file(name, masks), tuple(source.shape))  # raises DataError
        elif name not in known:
            hint = did_you_mean(name, known).rstrip() or f"statistics: {', '.join(known)}"
            if name == "classes":
                hint = "it needs `conditional`, and a method with densities"
            raise ConfigError(f"`match={text}`: the model will have no statistic {name!r}", hint=hint)


def divided(
    model: TrainedModel, texts: Iterable[str], *, masks: Path | None = None
) -> tuple[list[str], dict[str, float]]:
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
            parts += [part for part in statistics_in(text, masks) if part]
    if NONE in parts:
        raise ConfigError("`match=none` removes the tilt, so it takes no other statistics")
    valued = [part for part in parts if has_value(part) and part not in columns]
    named = [part for part in parts if part not in valued]
    if not parts:
        raise ConfigError("`match` names no statistic", hint="for example `match=contrast,edges`")
    given = read_targets(valued)
    if twice := [column for column in Measures.of(model, named, masks=masks).columns if column in given]:
        raise ConfigError(f"`match={twice[0]}` is given twice")
    return named, given


def _needs_file(name: str) -> ConfigError:
    """The error if samples would have to be compared by a mask whenever they are drawn, which the model cannot keep."""
    return ConfigError(
        f"a model of this method cannot keep {name}, because sampling would need the file",
        hint=f"vpfb sample --match {name}=VALUE; methods that keep it: {', '.join(names.methods_with('tilt'))}",
    )


def chosen(source: Source, seed: int) -> InMemory:
    """The data whose statistics are the targets, at most `IMAGES` at random."""
    rows = torch.randperm(len(source), generator=noise.generator(seed, "matched data"))[:IMAGES].sort().values
    return source.subset(rows)
