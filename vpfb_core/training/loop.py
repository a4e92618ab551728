"""The loop over the steps of a run: how a session begins, what precedes each step, and how the run ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vpfb_core.config import TrainConfig, read_file
from vpfb_core.errors import ConfigError, DataError, DivergedError, NoStepError, StepTooLargeError, counted
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.agenda import Due
from vpfb_core.training.continuation import LENGTH
from vpfb_core.training.current_run import CurrentRun
from vpfb_core.training.ending import calibrate_in_time, match_in_time
from vpfb_core.training.figures import NotFiniteError
from vpfb_core.training.initial_weights import weights_for
from vpfb_core.training.progress import Result
from vpfb_core.training.resuming import read_calibration, restore
from vpfb_core.training.state import Counters, State, read_state

MAX_ROLLBACKS = 5


def train_to_end(run: CurrentRun) -> Result[TrainedModel]:
    """Train until the run is finished or asked to stop. Errors are those of `session.run`."""
    damaged = _resume(run)
    if (finished := _already_finished(run)) is not None:
        return finished
    _begin(run, damaged)
    while True:
        due = run.agenda.due(
            run.counters.step, run.figures.line_began, run.record.saved_at, run.record.save_seconds, run.should_stop()
        )
        try:
            if due.fraction >= 1:
                run.figures.read(run.counters.step)
                break
            if not run.just_begun and (stopped := _do_what_is_due(run, due)):
                return stopped
            _step(run, due.fraction)
        except NotFiniteError as error:
            _roll_back(run, error)
    return _finish(run)


# --- the beginning of a session ---------------------------------------------------------------------------------------


def _resume(run: CurrentRun) -> tuple[Path, ...]:
    """Continue from the newest undamaged state, if there is one. Returns the paths of newer states, all damaged."""
    fingerprint = run.group.from_first(lambda: run.record.fingerprint)
    run.group.together(lambda: _require_same_data(run, fingerprint))
    restored = run.group.from_first(lambda: restore(run.record))
    if restored is None:
        return ()
    run.load(restored.state)
    run.validation, run.sample_accuracy, run.best = restored.validation, restored.sample_accuracy, restored.best
    run.clock.check_seconds = restored.check_seconds
    run.clock.calibration_seconds = restored.calibration_seconds
    return tuple(path for path, _ in restored.state.damaged)


def _require_same_data(run: CurrentRun, fingerprint: str) -> None:
    if run.record.fingerprint != fingerprint:
        raise ConfigError(
            f"process {run.group.rank} has other data named {run.config.data.source!r} than process 0",
            hint="give every machine the same files",
        )


def _already_finished(run: CurrentRun) -> Result[TrainedModel] | None:
    """The result of a run that was finished in an earlier session; None if there is something left to do."""
    model = run.model()
    run.clock.go_on(run.counters.seconds)
    if not run.group.from_first(
        lambda: run.folder.finished and _has_its_length(run) and read_calibration(run.record, model)
    ):
        return None
    return run.result("already finished", model)


def _has_its_length(run: CurrentRun) -> bool:
    """Whether a run in a folder was not given more steps or more time than it had when it was last trained.

    The clock cannot say so, since a run with a time budget ends before the budget is used up.
    """
    before, now = TrainConfig(**read_file(run.folder.config)).flat(), run.config.flat()
    return all(before[path] == now[path] for path in LENGTH)


def _begin(run: CurrentRun, damaged: tuple[Path, ...]) -> None:
    """Write the files of the beginning of a session, and check the model before its first step."""
    if run.group.first:
        run.record.begin(run.counters, damaged)
    run.clock.go_on(run.counters.seconds)
    run.figures.start(run.counters.step)
    if run.counters.step == 0:
        if (init := run.config.run.init) is not None:
            run.group.together(lambda: _start_from(run, init))
        run.check()
        run.save("running")
    run.clock.begin_steps()
    run.agenda.checked(run.counters.step)


def _start_from(run: CurrentRun, name: str) -> None:
    """Give the trainer the weights of a model. Optional tensors that the model lacks keep their initial values."""
    given = weights_for(run.trainer.field, name, str(run.plan.device))
    for field in (run.trainer.field, run.trainer.average):
        field.load_state_dict(given, strict=False)


# --- the steps --------------------------------------------------------------------------------------------------------


def _do_what_is_due(run: CurrentRun, due: Due) -> Result[TrainedModel] | None:
    """Log, check and save if they are due. Returns the result if the run was asked to stop, and otherwise None."""
    if due.check and not due.stop:
        run.check()
    elif due.log:
        run.figures.read(run.counters.step)
        run.log()
    if due.stop:
        run.save("interrupted")
        return run.result("interrupted", run.model())
    if due.save:
        run.save("running")
    return None


def _step(run: CurrentRun, fraction: float) -> None:
    """Take a step.

    Raises:
        NotFiniteError: the loss or the gradient of a step is not finite.
    """
    counters, batches = run.counters, run.inputs.batches
    try:
        batch = run.group.together(lambda: batches[counters.step])
    except DataError:  # from images that are read during training; the weights are still those of the last step
        run.save("interrupted")
        raise
    try:
        run.figures.add(run.trainer.step(batch, counters.step, fraction, counters.rollbacks))
    except StepTooLargeError as error:
        if run.group.first and run.record.saved is not None:
            run.record.status("interrupted", run.record.saved)
        error.message += f", at step {counters.step}; the last save is kept"
        raise
    counters.step += 1
    run.just_begun = False
    if run.plan.device.type == "cpu":  # on a GPU, reading the figures waits for it, so they are read for log lines only
        run.figures.read(counters.step)
    run.report()


def _roll_back(run: CurrentRun, error: NotFiniteError) -> None:
    """Return to the last saved state and halve the learning rate.

    Raises:
        DivergedError: there is no saved state, the settings do not allow rolling back, or it has happened too often.
    """
    rollbacks, seconds = run.counters.rollbacks + 1, run.clock.seconds()
    state = run.group.from_first(lambda: _state_to_roll_back_to(run, error, rollbacks))
    run.load(replace(state, counters=Counters(state.counters.step, seconds, rollbacks)))
    run.record.saved = None  # the saved state does not count this roll-back, so the same step is saved again
    run.figures.start(run.counters.step)
    run.agenda.checked(run.counters.step)


def _state_to_roll_back_to(run: CurrentRun, error: NotFiniteError, rollbacks: int) -> State:
    """The last saved state, whose step becomes the end of the log. Errors are those of `_roll_back`."""
    state = read_state(run.folder)
    if state is None or run.config.run.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
        run.record.status("diverged", state.counters if state else Counters())
        kept = f"the state of step {state.counters.step} is kept in {run.folder.path}" if state else "nothing was saved"
        tried = f"; the run was already rolled back {counted(rollbacks - 1, 'times')}" if rollbacks > 1 else ""
        option = "`on_nonfinite=rollback` or " if run.config.run.on_nonfinite == "stop" else ""
        raise DivergedError(f"training diverged at {error}", hint=f"{kept}{tried}; use {option}a lower `lr`")
    run.record.cut_log(state.counters.step)
    return state


# --- the end ----------------------------------------------------------------------------------------------------------


def _finish(run: CurrentRun) -> Result[TrainedModel]:
    """Check, calibrate and save the model. The first process does the work, and the others wait.

    Raises:
        NoStepError: no step was taken.
    """
    if not run.counters.step:
        if run.group.first:
            run.record.status("interrupted", run.counters)
        raise NoStepError(
            f"the time budget of {run.config.optimiser.time_budget:g} s was over before the first step",
            hint="use a longer `time_budget`, or a smaller `preset` or `size`",
        )
    run.check(finished=True)
    if run.config.optimiser.keep_best:
        run.return_to_best()
    run.save("running")  # so that the weights are not lost if the calibration fails
    model = run.model()
    run.report(calibrating=True)
    done = run.group.from_first(
        lambda: calibrate_in_time(
            model, run.inputs, run.counters.step, run.clock, run.seconds_per_gradient,
            run.trainer.micro_batch, run.should_stop,
        )
    )  # fmt: skip
    if done and run.config.run.match:
        done, tilt = run.group.from_first(
            lambda: match_in_time(
                model,
                run.inputs,
                run.clock,
                run.seconds_per_gradient,
                run.trainer.micro_batch,
                run.should_stop,
                run.folder.masks,
            )
        )
        model = model.with_tilt(tilt)
    run.report()
    status, model = ("finished", model) if done else ("interrupted", run.model())
    run.group.together(lambda: run.save(status, model))
    return run.result(status, model)
