"""The data of the training of a model, which a command loads once for all that needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from vpfb_core.data.source import Source
from vpfb_core.uses.calibration import training_data

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel


class TrainingSet:
    """The data that a model was trained on, loaded when they are first needed.

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
