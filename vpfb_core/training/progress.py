"""The progress of a run and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vpfb_core.model.runs import Run
from vpfb_core.model.trained import TrainedModel

AnyModel = TypeVar("AnyModel", bound=TrainedModel)


@dataclass(frozen=True)
class Progress:
    """The progress of a run. `on_step` is called with it after every step, and before and after the calibration.

    Figures that are not measured in every step are those of the last measurement.

    Attributes:
        step: the number of steps taken.
        fraction: the share of the run that is done.
        seconds: the duration of all sessions of the run.
        loss: the mean loss since the last log line.
        validation: the figures on the validation data by name, such as `val_residual`. The first one chooses the best
            model.
        sample_accuracy: the accuracy of a 1-nearest-neighbour classifier that separates the sample grid from validation
            images; 0.5 is perfect.
        grad_norm: the gradient norm of the last step, before clipping.
        lr: the learning rate.
        images_per_second: the number of images per second since the last log line.
        memory_bytes: the peak memory use at the last log line of the session, or at its beginning before the first one.
        calibrating: whether the last step is done and the model is being calibrated.
    """

    step: int
    fraction: float
    seconds: float
    loss: float
    validation: Mapping[str, float]
    sample_accuracy: float
    grad_norm: float
    lr: float
    images_per_second: float
    memory_bytes: int
    calibrating: bool = False

    @property
    def val_residual(self) -> float:
        """The first validation figure of the method, which need not be a residual; it chooses the best model."""
        return next(iter(self.validation.values()), float("nan"))

    def row(self) -> dict[str, float]:
        """The figures as one line of the log."""
        row: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "calibrating"}
        return row | dict(row.pop("validation"))


@dataclass(frozen=True)
class Result(Generic[AnyModel]):
    """The result of a run. In a job of several processes only the first one validates and calibrates the model.

    Attributes:
        run: the run folder.
        status: "finished", "interrupted", or "already finished" if there was nothing left to do.
        model: the model with the averaged weights.
        step: the number of steps of all sessions.
        images: the number of images in the batches of all steps.
        seconds: the duration of all sessions.
        images_per_second: the number of images per second over all sessions.
        loss: the mean loss since the last log line; NaN if no step was taken.
        validation: the figures on the validation data at the end, by name.
        notes: sentences about the data for the user, such as the number of images that could not be read.
        remarks: sentences about the run for the user (`Method.remarks`).
    """

    run: Run
    status: str
    model: AnyModel
    step: int
    images: int
    seconds: float
    images_per_second: float
    loss: float
    validation: Mapping[str, float]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def val_residual(self) -> float:
        """As `Progress.val_residual`; NaN if no validation figure was measured."""
        return next(iter(self.validation.values()), float("nan"))
