"""A session of a run: it locks the run folder, sets up the process, and trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from vpfb_core.data.decoding import warnings_silenced
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import deterministic, keeping_freed_memory
from vpfb_core.machine.precision import float32_by_default
from vpfb_core.model.lock import locked
from vpfb_core.model.runs import Run
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.current_run import CurrentRun
from vpfb_core.training.loop import train_to_end
from vpfb_core.training.plan import Plan
from vpfb_core.training.progress import Progress, Result
from vpfb_core.training.record import new_folder


@float32_by_default()
def run(
    plan: Plan,
    *,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    began: float | None = None,
) -> Result[TrainedModel]:
    """Carry out a plan: begin or continue its run, train, and write the run folder.

    If `torchrun` has started several processes, all of them call this function and divide the work. Only the first one
    writes files.

    Args:
        plan: the plan that `prepare` returned.
        on_step: a function that is called with the progress after every step, in the first process.
        should_stop: a function that is called before every step. Once it returns True in some process, the run is saved
            with the status "interrupted" and the function returns.
        began: the time at which the session began, by the monotonic clock, from which a time budget counts; None is
            now.
    Raises:
        ConfigError: another process is training in the run folder, or the run began with other data or settings.
        DivergedError: a loss or a gradient is not finite. The last good state is kept.
        StepTooLargeError: a step does not fit into the memory. The last good state is kept.
        NoStepError: the time budget was over before the first step.
        DataError: the folder cannot be written, or images that are read during training cannot be read.
        CheckpointError: the state from which the run is resumed is damaged.
        LostProcessError: another process has died.
    """
    group = distributed.group()
    with contextlib.ExitStack() as stack:

        def lock_folder() -> Run:
            folder = plan.existing or new_folder(plan.config)
            stack.enter_context(locked(folder))
            return folder

        folder = group.from_first(lock_folder)
        stack.enter_context(_threads(plan.config.machine.threads))
        stack.enter_context(keeping_freed_memory(plan.device))
        stack.enter_context(deterministic(plan.config.machine.deterministic))
        stack.enter_context(warnings_silenced())
        stack.enter_context(group.naming_lost_processes())
        current = CurrentRun(plan, folder, group, on_step, should_stop or (lambda: False), began)
        stack.enter_context(contextlib.closing(current))
        return train_to_end(current)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Inside this context, torch computes with `count` threads; None leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
