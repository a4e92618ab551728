"""Calibration at the end of a run, within its time budget and until the run is asked to stop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.micro_batch import MicroBatch
from vpfb_core.model.tilt import Tilt
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.clock import Clock
from vpfb_core.training.inputs import Inputs
from vpfb_core.uses.calibration import affordable, calibrate, least_cost
from vpfb_core.uses.matching.kept import chosen, kept_tilt, samples_to_keep

GRADIENTS_PER_SAMPLE = 64  # of a fit of a tilt: sixteen per sample, which is drawn about four times
FEWEST_SAMPLES = 32  # to which a tilt is fitted


def calibrate_in_time(
    model: TrainedModel,
    inputs: Inputs,
    steps: int,
    clock: Clock,
    seconds_per_gradient: float,
    micro_batch: MicroBatch,
    should_stop: Callable[[], bool],
) -> bool:
    """Calibrate a model with an effort in proportion to its training, so that a short run is not delayed.

    Within a time budget, the smallest reference is fitted even to a model that was trained on few images. When the
    budget is over, the rest of the calibration is left out.

    Args:
        model: the model, which is changed in place.
        inputs: the inputs of the run.
        steps: the number of steps of the run.
        clock: the clock of the run.
        seconds_per_gradient: the approximate duration of a gradient of the energy per image.
        micro_batch: the number of images that a step computes at once.
        should_stop: returns whether the run was asked to stop.
    Returns:
        False if the run was asked to stop during the calibration, which must then be repeated.
    """
    config = inputs.plan.config
    images = inputs.plan.images
    gradients, deadline = affordable(steps * (config.optimiser.batch_size or 0)), math.inf
    if (end := clock.deadline()) is not None:
        deadline = end
        left = (end - time.monotonic()) * (0.5 if config.run.match else 1.0)
        if left <= 0:
            return True
        gradients = min(max(gradients, least_cost(model)), int(left / max(seconds_per_gradient, 1e-9)))
    try:
        with _ended_by(should_stop, deadline, model) as require_time:
            micro_batch.fit(
                lambda at_once: calibrate(
                    model,
                    images,
                    config.run.seed,
                    gradients,
                    batch_size=2 * at_once,
                    trained_on=inputs.rows,
                    on_step=require_time,
                )
            )
    except _StopAskedError:
        return False
    except _DeadlineError:
        pass  # the model keeps what was done in time
    return True


def match_in_time(
    model: TrainedModel,
    inputs: Inputs,
    clock: Clock,
    seconds_per_gradient: float,
    micro_batch: MicroBatch,
    should_stop: Callable[[], bool],
    masks: Path,
) -> tuple[bool, Tilt | None]:
    """The tilt that gives samples the statistics of `run.match`, as far as there is time for its fit.

    A model that cannot have these statistics is kept without a tilt, and a warning says why.

    Args:
        masks: the folder of the masks that the run keeps. Other arguments are those of `calibrate_in_time`.

    Returns:
        False if the run was asked to stop, and the tilt.
    """
    config = inputs.plan.config
    wanted, count, deadline = config.run.match or (), samples_to_keep(model), math.inf
    if (end := clock.deadline()) is not None:
        deadline = end
        fitting = (end - time.monotonic()) / max(seconds_per_gradient * GRADIENTS_PER_SAMPLE, 1e-9)
        count = min(count, int(fitting))
    try:
        if count < FEWEST_SAMPLES:
            raise _DeadlineError
        real = chosen(inputs.plan.images.subset(inputs.rows), config.run.seed)
        with _ended_by(should_stop, deadline, model):
            return True, micro_batch.fit(
                lambda at_once: kept_tilt(
                    model, wanted, real, seed=config.run.seed, count=count, batch_size=2 * at_once, masks=masks
                )
            )
    except _StopAskedError:
        return False, None
    except _DeadlineError:
        why = "the time budget is over"
    except (ConfigError, DataError) as error:  # the file of a mask may have gone since the run began
        why = error.message
    warnings.warn(f"the statistics of samples are not matched: {why} (vpfb info --match adds them)", stacklevel=2)
    return True, None


def matching_cost(model: TrainedModel) -> int:
    """The number of gradients that the fit of a tilt takes with full effort."""
    return GRADIENTS_PER_SAMPLE * samples_to_keep(model)


class _StopAskedError(Exception):
    """The calibration was interrupted because the run was asked to stop."""


class _DeadlineError(Exception):
    """The calibration was interrupted by the end of the time budget."""


@contextmanager
def _ended_by(should_stop: Callable[[], bool], deadline: float, model: TrainedModel) -> Iterator[Callable[..., None]]:
    """Inside this context, each evaluation of the model's network checks whether the calibration may go on.

    The context gives the function that checks it.

    Raises:
        _StopAskedError: the run was asked to stop.
        _DeadlineError: the monotonic clock has passed the deadline.
    """

    def require_time(*_evaluation: object) -> None:
        if should_stop():
            raise _StopAskedError
        if time.monotonic() > deadline:
            raise _DeadlineError

    hook = model.field.network.register_forward_pre_hook(require_time)
    try:
        yield require_time
    finally:
        hook.remove()
