"""The loop around the steps: when to look, to save and to stop, and what ends a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from vpfb_core.training.agenda import Agenda, Due
from vpfb_core.training.checks import FIRST_IMAGES, FIRST_NFE
from vpfb_core.training.clock import Clock
from vpfb_core.training.ending import calibrate_in_time
from vpfb_core.training.figures import Figures, NotFiniteError
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.plan import Plan
from vpfb_core.training.progress import Progress, Result
from vpfb_core.training.record import Record
from vpfb_core.training.resuming import restore, start_from, take_over
from vpfb_core.training.state import Counters, State, read_state
from vpfb_core.uses.calibration import full_cost

MAX_ROLLBACKS = 5


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
        self.agenda = Agenda(self.config.run, self.clock, group)
        self.seconds_per_gradient = 0.0
        self.memory_bytes = 0  # asked for with each line of the log, since the allocator of a GPU takes its time
        self.just_begun = True  # no step has been taken since the last state was loaded

    def run(self) -> Result:
        """Train to the end, or until somebody wishes to stop; errors as of `session.run`."""
        damaged = self._restore()
        if (finished := self._finished_before()) is not None:
            return finished
        self._begin(damaged)
        while True:
            due = self.agenda.due(
                self.counters.step, self.figures.line_began, self.record.saved_at, self.record.save_seconds,
                self.should_stop(),
            )  # fmt: skip
            try:
                if due.fraction >= 1:
                    self.figures.read(self.counters.step)
                    break
                if not self.just_begun and (stopped := self._attend_to(due)):
                    return stopped
                self._step(due.fraction)
            except NotFiniteError as bad:
                self._roll_back(bad)
        return self._end()

    def _attend_to(self, due: Due) -> Result | None:
        """Log, check, save and stop as far as they are due; the result if the run stops here."""
        if due.log:
            self.figures.read(self.counters.step)
            self._log()
        if due.stop:
            self._save("interrupted")
            return self._result("interrupted", self._model())
        if due.check:
            self.figures.read(self.counters.step)  # a model that is not finite is not drawn
            self._check()
        if due.save:
            self._save("running")
        return None

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
                raise CheckpointError(
                    f"{self.folder.state} does not fit its run: {' '.join(str(error).split())}"
                ) from error

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
        self.clock.begin_steps()
        self.agenda.checked(self.counters.step)

    # --- from step to step --------------------------------------------------------------------------------------------

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
        self.agenda.checked(self.counters.step)

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
        self.agenda.checked(self.counters.step)

    def _log(self, *, anew: bool = False) -> None:
        if self.group.first:
            self.memory_bytes = memory_in_use(self.plan.device)
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
            memory_bytes=self.memory_bytes,
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
        self._tell(self._progress(calibrating=True))
        done = self.group.from_first(
            lambda: calibrate_in_time(
                model, self.inputs, self.counters.step, self.clock, self.seconds_per_gradient,
                self.trainer.micro_batch, self.should_stop,
            )
        )  # fmt: skip
        self._tell(self._progress())
        status, model = ("finished", model) if done else ("interrupted", self._model())
        self.group.together(lambda: self._save(status, model))
        return self._result(status, model)

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
