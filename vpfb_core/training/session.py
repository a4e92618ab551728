"""One session of a run, which locks its folder, sets up the machine and trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from vpfb_core.config import TrainConfig
from vpfb_core.data.decoding import warnings_silenced
from vpfb_core.machine import distributed
from vpfb_core.model.runs import Run
from vpfb_core.training.in_progress import RunInProgress
from vpfb_core.training.loop import train_to_end
from vpfb_core.training.plan import Plan, prepare
from vpfb_core.training.progress import Progress, Result
from vpfb_core.training.record import new_folder
from vpfb_core.training.state import locked


def train(
    config: TrainConfig,
    *,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a model; `prepare` and `run` in one. Arguments and errors as theirs."""
    return run(prepare(config), on_step=on_step, should_stop=should_stop)


def run(
    plan: Plan,
    *,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    began: float | None = None,
) -> Result:
    """Carry out a plan: begin or go on with its run, train, and leave a whole run folder.

    Where `torchrun` has started several processes, all call this and share the work; the first alone writes.

    Args:
        plan: from `prepare`.
        on_step: hears of every step, in the first process.
        should_stop: asked after every step; once it says True in some process the run is saved and left as
            "interrupted".
        began: when the session began, by the monotonic clock: a time budget counts from there. None is now.
    Raises:
        ConfigError: the run is held by another process, or the data is not what it was begun with.
        DivergedError: a non-finite loss or gradient; the last good state is kept.
        StepTooLargeError: a step does not fit into the memory; the last good state is kept.
        DataError: the folder cannot be written, or images that are read while training cannot be read.
        CheckpointError: the state to resume from is damaged.
        LostProcessError: another process has died.
    """
    group = distributed.group()
    with contextlib.ExitStack() as stack:

        def claimed() -> Run:
            folder = plan.existing or new_folder(plan.config)
            stack.enter_context(locked(folder))
            return folder

        folder = group.from_first(claimed)
        stack.enter_context(_threads(plan.config.machine.threads))
        stack.enter_context(warnings_silenced())
        stack.enter_context(group.naming_lost_processes())
        in_progress = RunInProgress(plan, folder, group, on_step, should_stop or (lambda: False), began)
        stack.enter_context(contextlib.closing(in_progress))
        return train_to_end(in_progress)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads, and leave the process as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
