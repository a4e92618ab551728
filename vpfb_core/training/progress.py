"""The progress of a run and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vpfb_core.model.runs import Run


@dataclass(frozen=True)
class Progress:
    """The progress of a run, with which `on_step` is called after every step, and before and after calibration.

    Figures that are measured only at times are those of the last measurement.

    Attributes:
        step: steps taken.
        fraction: share of the run that is done.
        seconds: of all its sessions.
        loss: mean since the last line of the log.
        validation: figures of the held-out data by name, such as `val_residual`; the first one chooses the best model.
        sample_accuracy: of a 1-nearest-neighbour classifier that tells the grid from held-out images: 0.5 is perfect.
        grad_norm: of the last step, before clipping.
        lr: learning rate.
        images_per_second: since the last line of the log.
        memory_bytes: peak memory at the last line of the log; 0 before.
        calibrating: whether the steps are over and the model is being calibrated.
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
        """The first validation figure, by which the best model is chosen."""
        return next(iter(self.validation.values()), float("nan"))

    def row(self) -> dict[str, float]:
        """The figures as one line of the log."""
        row: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "calibrating"}
        return row | dict(row.pop("validation"))


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        run: its folder.
        status: "finished", "interrupted", or "already finished" when there was nothing left to do.
        model: with the averaged weights.
        step: steps taken in all.
        images: drawn from the data in all.
        seconds: of all its sessions.
        images_per_second: images drawn from the data, over its life.
        loss: mean since the last line of the log; NaN if no step was taken.
        validation: figures of the held-out data at the end; where several processes train, only the first has measured
            them, and calibrated its model.
        notes: in plain words, what was found out about the data while it was trained on.
    """

    run: Run
    status: str
    model: Any
    step: int
    images: int
    seconds: float
    images_per_second: float
    loss: float
    validation: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def val_residual(self) -> float:
        """The first validation figure, by which the best model is chosen; NaN if none was measured."""
        return next(iter(self.validation.values()), float("nan"))
