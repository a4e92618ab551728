"""The loop around the steps: when to look, to save and to stop, and what ends a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vpfb_core.data.unreadable import counted
from vpfb_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    NoStepError,
    StepTooLargeError,
)
from vpfb_core.machine.container import finite_or_none
from vpfb_core.machine.devices import memory_in_use
from vpfb_core.machine.distributed import Group
from vpfb_core.model import model_file
from vpfb_core.model.runs import Run
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.checks import FIRST_IMAGES, FIRST_NFE, spread
from vpfb_core.training.clock import Clock
from vpfb_core.training.figures import Figures, NotFiniteError
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.plan import Plan
from vpfb_core.training.progress import Progress, Result
from vpfb_core.training.record import Record
from vpfb_core.training.resuming import restore, start_from, take_over
from vpfb_core.training.state import Counters, State, read_state
from vpfb_core.uses.calibration import IMAGES, affordable, calibrate, full_cost

LOG_SECONDS = 2.0  # between lines of the log, unless log_every says otherwise
SAVE_SECONDS = 60.0  # between saves, unless save_every says otherwise; and at least so many times what a save takes:
SAVE_SHARE = 50
CHECKS = 10  # checks per run, unless sample_every says otherwise
MAX_ROLLBACKS = 5


@dataclass(frozen=True)
class _Now:
    """What all processes do before the next step: the clock is the first one's, any may wish to stop."""

    fraction: float
    log: bool
    check: bool
    save: bool
    stop: bool


class Loop:
    """A run while it is carried out.

    Args:
        plan: of the run.
        folder: of the run, claimed by the first process.
        group: the processes that train.
        on_step: as of `session.run`.
        should_stop, began: as of `session.run`.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Run,
        group: Group,
        on_step: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool],
        began: float | None = None,
    ) -> None:
        self.plan, self.folder, self.group = plan, folder, group
        self.on_step, self.should_stop = on_step, should_stop
        self.config = plan.config
        self.known_unreadable = frozenset(plan.images.skipped)
        self.inputs = group.together(lambda: Inputs.of(plan))
        self.trainer = self.inputs.trainer()
        self.checks = self.inputs.checks()
        self.record = Record(self.inputs, folder, self.trainer.average)
        self.clock = Clock(self.config, began)
        self.figures = Figures(self.config.optimiser.batch_size or 1, group)
        self.counters = Counters()
        self.validation: Mapping[str, float] = {f"val_{name}": math.nan for name in plan.method.figures}
        self.sample_accuracy = self.best = math.nan
        self.next_check = self.seconds_per_gradient = 0.0
        self.just_begun = True  # no step has been taken since the last state was loaded

    def run(self) -> Result:
        """Train to the end, or until somebody wishes to stop; errors as of `session.run`."""
        damaged = self._restore()
        if (finished := self._finished_before()) is not None:
            return finished
        self._begin(damaged)
        while True:
            now = self._agree()
            try:
                if now.fraction >= 1:
                    self.figures.read(self.counters.step)
                    break
                if now.log:
                    self.figures.read(self.counters.step)
                    self._log()
                if now.stop:
                    self._save("interrupted")
                    return self._result("interrupted", self._model())
                if now.check:
                    self._check()
                if now.save:
                    self._save("running")
                self._step(now.fraction)
            except NotFiniteError as bad:
                self._roll_back(bad)
        return self._end()

    def close(self) -> None:
        """Let go of the data."""
        self.inputs.batches.close()

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _restore(self) -> tuple[Path, ...]:
        """Go on from the newest whole state, if there is one; return the newer ones, which are damaged."""
        first = self.group.from_first(lambda: self.record.fingerprint)
        self.group.together(lambda: self._require_same_data(first))
        restored = self.group.from_first(lambda: restore(self.record))
        if restored is None:
            return ()
        self._load(restored.state)
        self.validation, self.sample_accuracy = restored.validation, restored.sample_accuracy
        self.best = restored.best
        self.clock.check_seconds = restored.check_seconds
        self.clock.calibration_seconds = restored.calibration_seconds
        return tuple(path for path, _ in restored.state.damaged)

    def _require_same_data(self, fingerprint: str) -> None:
        if self.record.fingerprint != fingerprint:
            raise ConfigError(f"the data {self.config.data.source!r} are not the same for process {self.group.rank}")

    def _load(self, state: State) -> None:
        def load_weights() -> None:
            try:
                self.trainer.load(state.tensors, state.counters.step, state.format_version)
            except (KeyError, RuntimeError) as error:
                raise CheckpointError(f"{self.folder.state} does not fit its run: {error}") from error

        self.group.together(load_weights)
        self.counters, self.just_begun = state.counters, True

    def _finished_before(self) -> Result | None:
        """The result of a run that has nothing left to do; None if it has."""
        model = self._model()
        self.clock.go_on(self.counters.seconds)
        at_end = self.clock.fraction(self.counters.step) >= 1  # else it was given more steps, or more time
        if not self.group.from_first(lambda: self.folder.finished and at_end and take_over(self.record, model)):
            return None
        return self._result("already finished", model)

    def _begin(self, damaged: tuple[Path, ...]) -> None:
        if self.group.first:
            self.record.begin(self.counters, damaged)
        self.clock.go_on(self.counters.seconds)
        self.figures.start(self.counters.step)
        if self.counters.step == 0:
            if (init := self.config.run.init) is not None:
                self.group.together(lambda: start_from(self.trainer, init))
            self._check()
            self._log(anew=True)
            self._save("running")
        self._plan_next_check()

    # --- from step to step --------------------------------------------------------------------------------------------

    def _agree(self) -> _Now:
        """What to do now: one message between the processes, which waits for no GPU."""
        fraction = self.clock.fraction(self.counters.step)
        due = [
            self._due(self.config.run.log_every, time.monotonic() - self.figures.line_began > LOG_SECONDS),
            self._due(self.config.run.sample_every, fraction >= self.next_check),
            self._due(self.config.run.save_every, time.monotonic() - self.record.saved_at > self._save_interval()),
        ]
        mine = [fraction, *due] if self.group.first else [0.0] * 4
        fraction, *agreed = self.group.largest([*mine, self.should_stop()])
        log_due, check_due, save_due, stop = (bool(wish) and not self.just_begun for wish in agreed)
        return _Now(fraction, log_due, check_due, save_due, stop)

    def _save_interval(self) -> float:
        """Seconds between saves."""
        return max(SAVE_SECONDS, SAVE_SHARE * self.record.save_seconds)

    def _due(self, every: int | None, otherwise: bool) -> bool:
        return otherwise if every is None else self.counters.step % every == 0

    def _step(self, fraction: float) -> None:
        """Take a step.

        Raises:
            NotFiniteError: one of the steps whose figures were read.
        """
        counters, batches = self.counters, self.inputs.batches
        try:
            batch = self.group.together(lambda: batches[counters.step])
        except DataError:  # images that are read while training: nothing of the step has happened yet
            self._save("interrupted")
            raise
        try:
            self.figures.add(self.trainer.step(batch, counters.step, fraction, counters.rollbacks))
        except StepTooLargeError as error:
            if self.group.first and self.record.saved is not None:
                self.record.status("interrupted", self.record.saved)
            error.message += f", at step {counters.step}; the last save is kept"
            raise
        counters.step += 1
        self.just_begun = False
        if self.plan.device.type == "cpu":  # reading them waits for a GPU, which is done where a line of the log is due
            self.figures.read(counters.step)
        self._tell(self._progress())

    def _roll_back(self, bad: NotFiniteError) -> None:
        """Return to the last saved state at half the rate, or stop there.

        Raises:
            DivergedError: the run is to stop, or has rolled back too often.
        """
        rollbacks, seconds = self.counters.rollbacks + 1, self.clock.seconds()
        state = self.group.from_first(lambda: self._last_good_state(bad, rollbacks))
        self._load(replace(state, counters=Counters(state.counters.step, seconds, rollbacks)))
        self.record.saved = None  # it says nothing of the roll-back
        self.figures.start(self.counters.step)
        self._plan_next_check()

    def _last_good_state(self, bad: NotFiniteError, rollbacks: int) -> State:
        state = read_state(self.folder)
        if state is None or self.config.run.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
            self.record.status("diverged", state.counters if state else Counters())
            kept = (
                f"the state of step {state.counters.step} is kept in {self.folder.path}" if state else "nothing saved"
            )
            tried = f"rolled back {rollbacks - 1} times already" if rollbacks > 1 else "try --on-nonfinite rollback"
            raise DivergedError(f"training diverged at {bad}", hint=f"{kept}; {tried}, or a lower --lr")
        self.record.cut_log(state.counters.step)
        return state

    # --- what is measured, told and written ---------------------------------------------------------------------------

    def _check(self) -> None:
        """Measure the averaged weights, and keep the model as the best where its first figure was never less."""
        if not self.group.first:
            return
        began, model = time.monotonic(), self._model()
        untrained = self.counters.step == 0 and self.config.run.init is None
        care = {"images": FIRST_IMAGES, "nfe": FIRST_NFE} if untrained else {}
        # A training step evaluates two points per image.
        found = self.trainer.micro_batch.fit(lambda at_once: self.checks.check(model, batch_size=2 * at_once, **care))
        self.validation, self.sample_accuracy = found.validation, found.sample_accuracy
        self.seconds_per_gradient = found.seconds_per_image
        self.clock.calibration_seconds = found.seconds_per_image * full_cost(model)
        self.record.grid(self.counters.step, found.grid)
        first = next(iter(found.validation.values()))
        if math.isnan(self.best) or first < self.best:
            self.best = first
            model_file.save(self._model(), self.folder.best)
        self.clock.check_seconds = time.monotonic() - began
        self._plan_next_check()

    def _plan_next_check(self) -> None:
        self.next_check = self.clock.fraction(self.counters.step) + 1 / CHECKS

    def _log(self, *, anew: bool = False) -> None:
        if self.group.first:
            self.record.line(self._progress(), anew=anew)
        self.figures.start(self.counters.step)

    def _save(self, status: str, model: TrainedModel | None = None) -> None:
        """Write state, model, card and status.

        Raises:
            NotFiniteError: one of the figures not yet read; nothing is written.
        """
        self.figures.read(self.counters.step)
        if not self.group.first:
            return
        about: dict[str, Any] = {
            "validation": {name: finite_or_none(value) for name, value in self.validation.items()},
            "sample_accuracy": finite_or_none(self.sample_accuracy),
            "best": finite_or_none(self.best),
            "check_seconds": self.clock.check_seconds,
            "calibration_seconds": self.clock.calibration_seconds,
        }
        self.record.save(status, self._counters(), self.trainer.tensors, model or self._model(), about)

    def _counters(self) -> Counters:
        return replace(self.counters, seconds=self.clock.seconds())

    def _model(self) -> TrainedModel:
        return self.record.model(self._counters(), self.validation)

    def _progress(self, *, calibrating: bool = False) -> Progress:
        counters, fraction = self.counters, self.clock.fraction(self.counters.step)
        return Progress(
            step=counters.step,
            fraction=fraction,
            seconds=self.clock.seconds(),
            loss=self.figures.loss,
            validation=self.validation,
            sample_accuracy=self.sample_accuracy,
            grad_norm=self.figures.grad_norm,
            lr=self.trainer.learning_rate(counters.step, fraction, counters.rollbacks),
            images_per_second=self.figures.images_per_second(counters.step),
            memory_bytes=memory_in_use(self.plan.device),
            calibrating=calibrating,
        )

    def _tell(self, progress: Progress) -> None:
        if self.on_step is not None and self.group.first:
            self.on_step(progress)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self) -> Result:
        """Measure, calibrate and save; the other processes wait.

        Raises:
            NoStepError: no step was taken.
        """
        if not self.counters.step:
            raise NoStepError(
                f"the time budget of {self.config.optimiser.time_budget:g} s was over before the first step",
                hint="give the run more time, or use a smaller --preset or --size",
            )
        self._check()
        self._log(anew=True)
        self._save("running")  # whatever calibration meets, the weights are safe
        model = self._model()
        done = self.group.from_first(lambda: self._calibrate(model))
        status, model = ("finished", model) if done else ("interrupted", self._model())
        self.group.together(lambda: self._save(status, model))
        return self._result(status, model)

    def _calibrate(self, model: TrainedModel) -> bool:
        """Calibrate the averaged weights; in proportion to the run, so that a short one is not held up.

        What is not done when the time budget is over is left out. False if it was asked to stop meanwhile: calibration
        is then to be done again.
        """
        self._tell(self._progress(calibrating=True))
        images = self.plan.images.subset(spread(self.inputs.rows, IMAGES))
        gradients, deadline = affordable(self.counters.step * (self.config.optimiser.batch_size or 0)), math.inf
        if (end := self.clock.deadline()) is not None:
            deadline = end
            left = max(end - time.monotonic(), 0.0)
            gradients = min(gradients, int(left / max(self.seconds_per_gradient, 1e-9)))
        try:
            with _ended_by(self.should_stop, deadline, model):
                self.trainer.micro_batch.fit(
                    lambda at_once: calibrate(model, images, self.config.run.seed, gradients, batch_size=2 * at_once)
                )
        except _StopAskedError:
            return False
        except _DeadlineError:
            pass  # the model keeps what was done in time
        self._tell(self._progress())
        return True

    def _result(self, status: str, model: TrainedModel) -> Result:
        counters = self._counters()
        images = counters.step * (self.config.optimiser.batch_size or 0)
        met = [entry for entry in self.plan.images.skipped if entry not in self.known_unreadable]
        return Result(
            run=self.folder,
            status=status,
            model=model,
            step=counters.step,
            images=images,
            seconds=counters.seconds,
            images_per_second=images / counters.seconds if counters.seconds else 0.0,
            loss=self.figures.loss,
            validation=self.validation,
            notes=(f"left out {counted(met)}",) if met else (),
        )


class _StopAskedError(Exception):
    """Calibration was interrupted by a wish to stop."""


class _DeadlineError(Exception):
    """Calibration was interrupted by the end of the time budget."""


@contextmanager
def _ended_by(should_stop: Callable[[], bool], deadline: float, model: TrainedModel) -> Iterator[None]:
    """Within, each evaluation of the model's network looks whether to go on.

    Raises:
        _StopAskedError: somebody wishes to stop.
        _DeadlineError: the monotonic clock has passed the deadline.
    """

    def look(*_evaluation: object) -> None:
        if should_stop():
            raise _StopAskedError
        if time.monotonic() > deadline:
            raise _DeadlineError

    looking = model.field.network.register_forward_pre_hook(look)
    try:
        yield
    finally:
        looking.remove()
