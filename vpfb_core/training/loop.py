"""The loop around the steps: when to look, to save and to stop, and what ends a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vpfb_core.data.unreadable import counted
from vpfb_core.errors import CheckpointError, ConfigError, DataError, DivergedError, is_out_of_memory
from vpfb_core.machine.container import finite_or_none
from vpfb_core.machine.devices import memory_in_use
from vpfb_core.machine.distributed import Group
from vpfb_core.model.runs import Run
from vpfb_core.model.trained import Model
from vpfb_core.training import log, memory
from vpfb_core.training.clock import Clock
from vpfb_core.training.figures import Figures, NotFiniteError
from vpfb_core.training.held_out import sample_accuracy, spread
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.plan import Plan
from vpfb_core.training.record import Record
from vpfb_core.training.report import Progress, Result
from vpfb_core.training.restore import restore, take_over
from vpfb_core.training.state import Counters, State, read_state
from vpfb_core.uses.calibration import IMAGES, affordable, finish, full_cost

GRID_IMAGES = 64
GRID_NFE = 12
LOG_SECONDS = 2.0  # between lines of the log, unless log_every says otherwise
SAVE_SECONDS = 60.0  # between saves, unless save_every says otherwise
CHECKS = 10  # residual and grid this often in a run, unless sample_every says otherwise
MAX_ROLLBACKS = 5


class _StopAsked(Exception):  # noqa: N818 (it is no error)
    """Finishing a run was interrupted by a wish to stop."""


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
    """

    def __init__(self, plan: Plan, folder: Run, group: Group, on_step: Callable[[Progress], None] | None) -> None:
        self.plan, self.folder, self.group, self.on_step = plan, folder, group, on_step
        self.config, self.device = plan.config, plan.device
        self.known_unreadable = frozenset(plan.images.skipped)
        self.inputs = group.together(lambda: Inputs.of(plan))
        self.trainer = self.inputs.trainer()
        self.held_out = self.inputs.held_out(self.trainer)
        self.record = Record(self.inputs, folder, self.trainer.average)
        self.clock = Clock(self.config)
        self.figures = Figures(self.config.batch_size or 1, group)
        self.points = 2 * (self.config.micro_batch or 1)  # as many at once as a step takes: they fit into the memory
        self.counters = Counters()
        self.val_residual = self.sample_accuracy = self.best_residual = math.nan
        self.next_check = 0.0
        self.just_begun = True  # no step has been taken since the last state was loaded

    def run(self, should_stop: Callable[[], bool]) -> Result:
        """Train to the end, or until somebody wishes to stop; arguments and errors as of `session.run`."""
        damaged = self._restore()
        model = self._model()
        if self.group.from_first(lambda: self.folder.finished and take_over(self.record, model)):
            self.clock.go_on(self.counters.seconds)
            return self._result("already finished", model)
        self._begin(damaged)
        while True:
            now = self._agree(should_stop)
            try:
                if now.log and now.fraction < 1:  # the last line is written at the end
                    self.figures.read(self.counters.step)
                    self._log()
                if now.stop:
                    self._save("interrupted")
                    return self._result("interrupted", self._model())
                if now.fraction >= 1:
                    self.figures.read(self.counters.step)
                    break
                if now.check:
                    self._check()
                if now.save:
                    self._save("running")
                self._step(now.fraction)
            except NotFiniteError as bad:
                self._roll_back(bad)
        return self._end(should_stop)

    def close(self) -> None:
        """Let go of the data."""
        self.inputs.batches.close()

    # --- beginning and end --------------------------------------------------------------------------------------------

    def _restore(self) -> tuple[Path, ...]:
        """Go on from the newest whole state, if there is one; the newer ones, which are damaged."""
        self._check_data()
        restored = self.group.from_first(lambda: restore(self.record))
        if restored is None:
            return ()
        self._load(restored.state)
        self.val_residual, self.sample_accuracy = restored.val_residual, restored.sample_accuracy
        self.best_residual = restored.best_residual
        self.clock.check_seconds, self.clock.finish_seconds = restored.check_seconds, restored.finish_seconds
        return tuple(path for path, _ in restored.state.damaged)

    def _check_data(self) -> None:
        """All processes must have found the same images."""

        def check() -> None:
            if self.record.fingerprint != first:
                raise ConfigError(f"the data {self.config.data!r} is not the same for process {self.group.rank}")

        first = self.group.from_first(lambda: self.record.fingerprint)
        self.group.together(check)

    def _load(self, state: State) -> None:
        def load_weights() -> None:
            try:
                self.trainer.load(state.tensors, state.counters.step)
            except (KeyError, RuntimeError) as error:
                raise CheckpointError(f"{self.folder.state} does not fit its run: {error}") from error

        self.group.together(load_weights)
        self.counters, self.just_begun = state.counters, True

    def _begin(self, damaged: tuple[Path, ...]) -> None:
        if self.group.first:
            self.record.begin(self.counters, damaged)
        self.clock.go_on(self.counters.seconds)
        self.figures.start(self.counters.step)
        if self.counters.step == 0:
            self._check()
            self._log(anew=True)
            self._save("running")
        self.next_check = self.clock.fraction(self.counters.step) + 1 / CHECKS

    def _end(self, should_stop: Callable[[], bool]) -> Result:
        """Measure, calibrate and save; the other processes wait."""
        self._check()
        self._log(anew=True)
        self._save("running")  # whatever finishing meets, the weights are safe
        model = self._model()
        done = self.group.from_first(lambda: self._finish(model, should_stop))
        status, model = ("finished", model) if done else ("interrupted", self._model())
        self.group.together(lambda: self._save(status, model))
        return self._result(status, model)

    def _finish(self, model: Model, should_stop: Callable[[], bool]) -> bool:
        """Calibrate the averaged weights; in proportion to the run, so that a short one is not held up.

        False if it was asked to stop meanwhile: it is then to be done again.
        """

        def ask(*_evaluation: object) -> None:
            if should_stop():
                raise _StopAsked

        self._tell(replace(self._progress(), finishing=True))
        images = self.plan.images.subset(spread(self.inputs.rows, IMAGES))
        gradients = affordable(self.counters.step * (self.config.batch_size or 0))
        asking = model.potential.network.register_forward_pre_hook(ask)
        try:
            finish(model, images, self.config.seed, gradients, self.points)
        except _StopAsked:
            return False
        finally:
            asking.remove()
        self._tell(self._progress())
        return True

    # --- from step to step --------------------------------------------------------------------------------------------

    def _agree(self, should_stop: Callable[[], bool]) -> _Now:
        """What to do now: one message between the processes, which waits for no GPU."""
        fraction = self.clock.fraction(self.counters.step)
        due = [
            self._due(self.config.log_every, time.monotonic() - self.figures.line_began > LOG_SECONDS),
            self._due(self.config.sample_every, fraction >= self.next_check),
            self._due(self.config.save_every, time.monotonic() - self.record.saved_at > SAVE_SECONDS),
        ]
        mine = [fraction, *due] if self.group.first else [0.0] * 4
        fraction, *agreed = self.group.largest([*mine, should_stop()])
        log_due, check_due, save_due, stop = (bool(wish) and not self.just_begun for wish in agreed)
        return _Now(fraction, log_due, check_due, save_due, stop)

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
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.group.first and self.record.saved is not None:
                self.record.status("interrupted", self.record.saved)
            raise memory.too_large(self.config, self.plan.network, self.folder, counters.step) from error
        counters.step += 1
        self.just_begun = False
        if self.device.type == "cpu":  # to read them waits for a GPU, which is done where a line of the log is due
            self.figures.read(counters.step)
        self._tell(self._progress())

    def _roll_back(self, bad: NotFiniteError) -> None:
        """Return to the last saved state at half the rate, or stop there.

        Raises:
            DivergedError: the run is to stop, or has rolled back too often.
        """
        rollbacks, seconds = self.counters.rollbacks + 1, self.clock.seconds()

        def last_good() -> State:
            state = read_state(self.folder)
            kept = (
                f"the state of step {state.counters.step} is kept in {self.folder.path}"
                if state
                else "nothing was saved"
            )
            if state is None or self.config.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
                self.record.status("diverged", state.counters if state else Counters())
                advice = (
                    f"rolled back {rollbacks - 1} times already" if rollbacks > 1 else "try --on-nonfinite rollback"
                )
                raise DivergedError(f"training diverged at {bad}", hint=f"{kept}; {advice}, or a lower --lr")
            log.cut(self.folder.log, state.counters.step)
            return state

        state = self.group.from_first(last_good)
        self._load(replace(state, counters=Counters(state.counters.step, seconds, rollbacks)))
        self.record.saved = None  # it says nothing of the roll-back
        self.figures.start(self.counters.step)
        self.next_check = self.clock.fraction(self.counters.step) + 1 / CHECKS

    # --- what is measured, told and written ---------------------------------------------------------------------------

    def _check(self) -> None:
        """Measure the held-out residual and draw the grid of the run's fixed noise, both with the averaged weights.

        Where the residual was never less, the model is kept as the best.
        """
        if not self.group.first:
            return
        began, model = time.monotonic(), self._model()
        self.val_residual = self.held_out.residual(model.potential, self.points)
        self.clock.finish_seconds = (time.monotonic() - began) / len(self.held_out.data) * full_cost(model)
        images, _ = model.sample(
            GRID_IMAGES, self.config.seed, nfe=GRID_NFE, batch_size=min(GRID_IMAGES, self.points), return_info=True
        )
        real = self.held_out.data[:GRID_IMAGES] / self.config.data_std
        self.sample_accuracy = sample_accuracy(images, self.inputs.statistics.to_images(real).cpu())
        self.record.grid(self.counters.step, images)
        if math.isnan(self.best_residual) or self.val_residual < self.best_residual:
            self.best_residual = self.val_residual
            self._model().save(self.folder.best)
        self.clock.check_seconds = time.monotonic() - began
        self.next_check = self.clock.fraction(self.counters.step) + 1 / CHECKS

    def _log(self, *, anew: bool = False) -> None:
        if self.group.first:
            self.record.line(self._progress(), anew=anew)
        self.figures.start(self.counters.step)

    def _save(self, status: str, model: Model | None = None) -> None:
        """Write state, model, card and status.

        Raises:
            NotFiniteError: one of the figures not yet read; nothing is written.
        """
        self.figures.read(self.counters.step)
        if not self.group.first:
            return
        self.record.save(
            status, self._counters(), self.trainer.tensors, model or self._model(),
            val_residual=finite_or_none(self.val_residual), sample_accuracy=finite_or_none(self.sample_accuracy),
            best_residual=finite_or_none(self.best_residual),
            check_seconds=self.clock.check_seconds, finish_seconds=self.clock.finish_seconds,
        )  # fmt: skip

    def _counters(self) -> Counters:
        return replace(self.counters, seconds=self.clock.seconds())

    def _model(self) -> Model:
        return self.record.model(self._counters(), self.val_residual)

    def _progress(self) -> Progress:
        counters, fraction = self.counters, self.clock.fraction(self.counters.step)
        return Progress(
            step=counters.step,
            fraction=fraction,
            seconds=self.clock.seconds(),
            loss=self.figures.loss,
            val_residual=self.val_residual,
            sample_accuracy=self.sample_accuracy,
            grad_norm=self.figures.grad_norm,
            lr=self.trainer.learning_rate(counters.step, fraction, counters.rollbacks),
            images_per_second=self.figures.images_per_second(counters.step),
            memory_bytes=memory_in_use(self.device),
        )

    def _tell(self, progress: Progress) -> None:
        if self.on_step is not None and self.group.first:
            self.on_step(progress)

    def _result(self, status: str, model: Model) -> Result:
        counters = self._counters()
        images = counters.step * (self.config.batch_size or 0)
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
            val_residual=self.val_residual,
            notes=(f"left out {counted(met)}",) if met else (),
        )
