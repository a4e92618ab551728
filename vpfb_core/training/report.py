"""What a run tells: while it goes on, and at its end."""

from __future__ import annotations

from dataclasses import dataclass

from vpfb_core.model.runs import Run
from vpfb_core.model.trained import Model


@dataclass(frozen=True)
class Progress:
    """Where a run is, as `on_step` hears after every step, and at both ends of the model's calibration after the
    last (`finishing`). Figures are of the last time that they were measured; `sample_accuracy` is that of a
    1-nearest-neighbour classifier that tells the grid from held-out images: 0.5 is perfect."""  # fmt: skip

    step: int
    fraction: float
    seconds: float
    loss: float
    val_residual: float
    sample_accuracy: float
    grad_norm: float
    lr: float
    images_per_second: float
    memory_bytes: int
    finishing: bool = False


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run: its folder.
        status: "finished", "interrupted", or "already finished" when there was nothing left to do.
        model: with the averaged weights.
        step: steps taken in all.
        seconds: of all its sessions.
        images_per_second: images drawn from the data, over its life.
        loss: mean since the last line of the log; NaN if no step was taken.
        val_residual: held-out residual at the end; where several processes train, only the first has measured it, and
            calibrated its model.
        notes: in plain words, what was found out about the data while it was trained on.
    """

    run: Run
    status: str
    model: Model
    step: int
    images: int
    seconds: float
    images_per_second: float
    loss: float
    val_residual: float
    notes: tuple[str, ...] = ()
