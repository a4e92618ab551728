"""Features of a frozen network of one's own, as a further kind of evidence of the multi-scale score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.uses.evaluation import features
from vpfb_core.uses.training_set import TrainingSet

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

BATCH = 64


def find(name: str, weights_path: Path | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function from images (N, C, H, W), uint8 or in [0, 1], to features (N, F) on the CPU.

    Args:
        name: torchvision:ARCH, or the path of a network that torch.export has saved (.pt2), which gets images in
            [0, 1].
        weights_path: the file of the weights of torchvision:ARCH; None takes them from the cache of torch hub.
        device: the device of the network.
    Raises:
        ConfigError: there is no such architecture, or the name is none of both.
        MissingError: the weights are not on this machine. They are never downloaded.
        CheckpointError: the file is damaged, does not fit, or would have to be executed.
    """
    if not features.is_own(name):
        raise ConfigError(f"unknown features {name!r}", hint="`features=torchvision:ARCH` or PATH.pt2")
    extractor = features.find(name, weights_path, "", (), device, download=False)
    return lambda images: extractor.features(to_bytes(images), device, batch_size=BATCH).cpu()


def add(model: TrainedModel, compute: Callable[[Tensor], Tensor], training: TrainingSet) -> None:
    """Add features to the reference of a model, which is changed in place. No model file gets them.

    Args:
        model: a model with a reference.
        compute: the function of `find`.
        training: the data of its training.
    Raises:
        ConfigError: the model does not say what it was trained on.
        DataError: the data of the training cannot be read.
        CheckpointError: the reference does not name its images, or they are not as they were.
    """
    reference = model.reference
    assert reference is not None  # `require_ready` has checked it
    if not len(reference.rows):
        raise CheckpointError(
            "the reference of this model does not name its images, so their features are not known",
            hint="fit it again with vpfb info --calibrate MODEL",
        )
    source, trained_on = training.load()
    images = None if trained_on is None else source.subset(reference.rows)
    if images is None or len(images) != len(reference.rows):
        raise CheckpointError(
            f"'{source.name}' is not as it was when the model was trained, so its features are unknown",
            hint="fit the reference again with vpfb info --calibrate MODEL",
        )
    model.reference = reference.with_own(compute(images.data), compute)
