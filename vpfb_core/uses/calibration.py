"""Calibration of a trained model: the constants of its densities and the reference of its out-of-distribution scores.

Both are estimated from the training data after training and saved in the model file, so that densities and scores of
other images need no training data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data import InMemory, Source
from vpfb_core.data.unreadable import readable
from vpfb_core.errors import DataError
from vpfb_core.machine import noise
from vpfb_core.machine.precision import true_float32
from vpfb_core.methods.step import Validation
from vpfb_core.model import model_file
from vpfb_core.model.detector import HALVES, pictures_of
from vpfb_core.model.lock import changing
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.ood import detectors, fit
from vpfb_core.uses.ood.descriptors import levels_of
from vpfb_core.uses.training_set import IMAGES, training_data

VALUES = 2**27  # the largest number of values in all of these images
BATCH = 64
SHARE = 0.15  # the largest share of the work of a training run that its calibration takes
DETECTORS = 1 / 3  # the largest share of a calibration of limited effort that the training of detectors takes
STEP_COST = 7  # the cost of a training step in gradients per image: two points, each differentiated twice
_AT_ONCE = 500  # images that are read between two looks at the clock
_LEAST_IMAGES = 50  # a reference of fewer images would be too inaccurate to use


def affordable(images: int) -> int:
    """The number of gradients for the calibration of a run that has trained on this many images."""
    return int(SHARE * STEP_COST * images)


def full_cost(model: TrainedModel) -> int:
    """The number of gradients that a calibration with full effort takes."""
    if not methods.gives(model.method.name, "free-energy"):
        return 0
    reference = fit.IMAGES * reference_cost(model) + detector_steps(model) * detectors.STEP_COST
    reference = reference if model.field.has_null else 0
    return model.method.calibration_cost(model.field, model.data_shape.classes) + reference


def least_cost(model: TrainedModel) -> int:
    """The number of gradients of the smallest reference."""
    has_one = methods.gives(model.method.name, "free-energy") and model.field.has_null
    return _LEAST_IMAGES * reference_cost(model) if has_one else 0


def detector_steps(model: TrainedModel, steps: int = detectors.STEPS, images: int = detectors.MOST_IMAGES) -> int:
    """The number of steps of the training of detectors, of `steps` that there is time for, with so many images."""
    return detectors.affordable(steps, tuple(model.shape), images) if model.field.has_null else 0


def reference_cost(model: TrainedModel) -> int:
    """Gradients per image of the reference."""
    return len(levels_of(model.field))


def calibrate_file(
    path: Path,
    source: str | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    on_images: Callable[[Source], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    **options: Any,
) -> None:
    """Calibrate the model of a file, and save it in the same file.

    Args:
        path: the model file.
        source: the data, as in `training_set.training_data`.
        seed: the seed of the choice of images and of the noise.
        device: the device of the computation, as in `vpfb_core.load`.
        on_images: called with the images before they are used.
        on_progress: called with the approximate share of the work that is done, in [0, 1].
        options: root and download, as in `data.load`.
    Raises:
        ConfigError: the model is a built-in one, its run is being trained, it has no energy, or its data are not known.
        CheckpointError: the file is damaged.
        DataError: the data cannot be read or do not fit the model, or the file cannot be written.
    """
    with changing(path):
        model = model_file.load(TrainedModel, path, device=device)
        model.require("free-energy", "calibration")
        images, trained_on = training_data(model, source, **options)
        if on_images is not None:
            on_images(images)
        untilted = model.untilted
        with _counted(untilted, on_progress or (lambda _share: None)) as on_step:
            calibrate(untilted, images, seed, trained_on=trained_on, on_step=on_step)
        untilted.about["calibration_seed"] = seed
        model_file.save(untilted.with_tilt(model.tilt), path)


@contextmanager
def _counted(model: TrainedModel, on_progress: Callable[[float], None]) -> Iterator[Callable[[], None]]:
    """Inside this context, the work of a calibration with full effort is counted.

    The context gives the function that counts a step of a detector.
    """
    done, cost = 0.0, max(1, full_cost(model))

    def count(gradients: float) -> None:
        nonlocal done
        done += gradients
        on_progress(min(1.0, done / cost))

    hook = model.field.network.register_forward_pre_hook(lambda _network, inputs: count(len(inputs[0])))
    try:
        yield lambda: count(detectors.STEP_COST / HALVES)
    finally:
        hook.remove()
    on_progress(1.0)


def calibrate(
    model: TrainedModel,
    source: Source,
    seed: int = 0,
    gradients: int | None = None,
    batch_size: int = BATCH,
    trained_on: Tensor | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> None:
    """Estimate the constants of a model and fit its reference, and set both in the model.

    A model without an energy needs neither. A model whose unconditional field is not trained gets no reference.

    Args:
        model: the model, which is changed in place.
        source: the data of the training, in the shape of the model and, if it is conditional, with its groups.
        seed: the seed of the choice of images and of the noise.
        gradients: the approximate number of gradients to spend, at most a third of them on detectors of alterations and
            two thirds of the others on the rest of the reference, unless the smallest one needs more. Parts that would
            be too inaccurate with them are left out. None spends `full_cost`.
        batch_size: the number of images that are computed at once.
        trained_on: the rows that were trained on, int64; None is all. They alone give the constants. Those that were
            held out are in the reference as well, so that all pictures of a folder are assessed alike.
        on_step: called before each training step of a detector, and while images are read for them.
    Raises:
        DataError: the data have another shape or other classes than the model.
        DivergedError: the energy is not finite.
    """
    if tuple(source.shape) != tuple(model.shape):
        raise DataError(
            f"{source.name} has {source.noun} of shape {tuple(source.shape)}, the model of {tuple(model.shape)}"
        )
    if model.groups and source.groups != model.groups:
        raise DataError(f"{source.name} does not have the classes of the model", hint="name its training data")
    if not methods.gives(model.method.name, "free-energy"):
        return
    chosen = _shuffled(source, torch.arange(len(source)) if trained_on is None else trained_on, seed)
    images = min(len(source), VALUES // math.prod(source.shape))
    count, rest, steps = fit.IMAGES if model.field.has_null else 0, None, detector_steps(model, images=images)
    if gradients is not None:
        steps = detector_steps(model, int(DETECTORS * gradients) // detectors.STEP_COST, images)
        gradients -= steps * detectors.STEP_COST
        cost = reference_cost(model)
        count = min(count, max(2 * gradients // (3 * cost), min(_LEAST_IMAGES, gradients // cost)))
        rest = gradients - count * cost
    labels = None if chosen.labels is None or not model.groups else chosen.labels
    standardised = model.standardise(model.statistics.dequantise(chosen.data, seed))
    with true_float32(model.device):
        found = model.method.calibrate(
            model.field, Validation(standardised, labels, seed), model.data_shape.classes, rest, batch_size
        )
    model.take_calibration(found or model.calibration)
    if count >= _LEAST_IMAGES and len(source) > 1:
        order = torch.randperm(len(source), generator=noise.generator(seed, "members"))[:images]
        # A run whose time is over keeps what was fitted last: the smallest reference, or one without detectors.
        for size in sorted({min(_LEAST_IMAGES, images), min(count, images)}):
            rows = order[:size].sort().values
            chosen = source.subset(rows)
            known = readable(source, rows, chosen)
            model.reference = fit.fit_reference(
                model, chosen.data, rows=known, count=size, batch_size=batch_size, steps=0
            )
        if steps:
            _train_detectors(model, chosen.data, source, order[len(rows) : detectors.useful(steps)], steps, on_step)


def _train_detectors(
    model: TrainedModel, images: Tensor, source: Source, others: Tensor, steps: int, on_step: Callable[[], object]
) -> None:
    """Train detectors for the reference of a model on its images and on those at other rows of the source."""
    assert model.reference is not None
    pictures = [pictures_of(images)]
    for rows in others.split(_AT_ONCE) if len(others) else ():
        on_step()
        pictures.append(pictures_of(source.subset(rows.sort().values).data))
    model.reference = fit.with_detectors(
        model.reference, torch.cat(pictures), device=model.device, steps=steps, on_step=on_step
    )


def _shuffled(source: Source, rows: Tensor, seed: int) -> InMemory:
    """At most `IMAGES` images of those at `rows` of the source, in random order."""
    order = torch.randperm(len(rows), generator=noise.generator(seed, "calibration images"))
    return source.subset(rows[order[: min(IMAGES, VALUES // math.prod(source.shape))]])
