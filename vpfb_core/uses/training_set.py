"""The data of the training of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from vpfb_core import data
from vpfb_core.data import LoadOptions, Source
from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

IMAGES = 4096  # the largest number of images that calibration and statistics use: enough of each class


def training_images(model: TrainedModel, source: str | None = None, **options: Any) -> Source:
    """Images like those that a model was trained on: at most `IMAGES` of its training, or all of another source.

    Arguments and errors are those of `training_data`.
    """
    images, trained_on = training_data(model, source, **options)
    if trained_on is None:
        return images
    return images.subset(trained_on[LoadOptions(limit=IMAGES).rows(len(trained_on))])


def training_data(model: TrainedModel, source: str | None = None, **options: Any) -> tuple[Source, Tensor | None]:
    """The data of the training of a model, in its shape and with its classes.

    Args:
        model: the model.
        source: the name of a data set, a folder or a file; None is the data that the model was trained on.
        options: root and download, as in `data.load`.
    Returns:
        The data, and the rows of those that it was trained on; None if they are not the data of its training.
    Raises:
        ConfigError: the source is None, and the model does not say what it was trained on.
        DataError: the data cannot be read.
    """
    source = source or model.about.get("data", {}).get("name")
    if source is None:
        raise ConfigError("the model does not say what it was trained on", hint="name the data: `data=DATA`")
    images = data.find(source, LoadOptions(**model.reading, **model.class_reading, stream=True, **options))
    parts = model.split_of(images)
    return images, None if parts is None else parts[0]


class TrainingSet:
    """The data that a model was trained on, which are loaded once, when they are first needed.

    Args:
        model: the model.
        options: root and download, as in `data.load`.
    """

    def __init__(self, model: TrainedModel, **options: Any) -> None:
        self.model, self.options = model, options
        self._found: tuple[Source, Tensor | None] | None = None

    def load(self, **options: Any) -> tuple[Source, Tensor | None]:
        """The data and the rows that were trained on; None if the data are not as they were (`training_data`).

        Args:
            options: options that replace those of the set, if the data are not loaded yet.
        Raises:
            ConfigError: the model does not say what it was trained on.
            DataError: the data cannot be read.
        """
        if self._found is None:
            self._found = training_data(self.model, **self.options | options)
        return self._found
