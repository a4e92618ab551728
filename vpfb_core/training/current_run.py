"""The current run: its parts, and what is measured, reported and saved at its present step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vpfb_core.data.unreadable import in_words
from vpfb_core.errors import CheckpointError
from vpfb_core.machine.container import finite_or_none
from vpfb_core.machine.devices import memory_in_use
from vpfb_core.machine.distributed import Group
from vpfb_core.model import model_file
from vpfb_core.model.runs import Run
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.agenda import Agenda
from vpfb_core.training.checks import QUICK_IMAGES, QUICK_NFE
from vpfb_core.training.clock import Clock
from vpfb_core.training.ending import matching_cost
from vpfb_core.training.figures import Figures
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.plan import Plan
from vpfb_core.training.progress import Progress, Result
from vpfb_core.training.record import Record
from vpfb_core.training.state import Counters, State
from vpfb_core.uses.calibration import full_cost, least_cost


class CurrentRun:
    """A run during one session. `loop` decides when its methods are called.

    Args:
        plan: the plan of the run.
        folder: the run folder, which this job holds.
        group: the processes that train.
        on_step, should_stop, began: those of `session.run`.

    Attributes:
        counters: the steps and roll-backs so far. Its seconds are those of the sessions before this one.
        validation: the validation figures of the last check by name; NaN before the first check.
        best: the lowest value so far of the first validation figure; NaN before the first check.
        seconds_per_gradient: the duration of a gradient of the energy per image, as measured by the last check.
        just_begun: whether no step has been taken since a state was loaded or the run began.
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
        self.plan, self.group = plan, group
        self.on_step, self.should_stop = on_step, should_stop
        self.config = plan.config
        self._known_unreadable = frozenset(plan.images.skipped)
        self.inputs = group.together(lambda: Inputs.of(plan))
        self.trainer = self.inputs.trainer()
        self.checks = self.inputs.checks()
        self.record = Record(plan, folder, self.trainer.average)
        self.clock = Clock(self.config, began)
        self.figures = Figures(self.config.optimiser.batch_size or 1, group)
        self.agenda = Agenda(self.config.run, self.clock, group)
        self.counters = Counters()
        self.validation: Mapping[str, float] = {f"val_{name}": math.nan for name in plan.method.figures}
        self.sample_accuracy = self.best = math.nan
        self.seconds_per_gradient = 0.0
        # It is read once per log line, since the allocator of a GPU is slow to report it.
        self._memory_bytes = memory_in_use(plan.device)
        self.just_begun = True

    @property
    def folder(self) -> Run:
        """The run folder, where it is now."""
        return self.record.folder

    def close(self) -> None:
        """Close the files of the data and of the run."""
        self.inputs.batches.close()
        self.record.close()

    def load(self, state: State) -> None:
        """Go to the step, the weights and the optimiser of a saved state."""

        def load_tensors() -> None:
            try:
                self.trainer.load(state.tensors, state.counters.step, state.format_version)
            except (KeyError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise CheckpointError(f"{self.folder.state} does not fit its run: {reason}") from error

        self.group.together(load_tensors)
        self.counters, self.just_begun = state.counters, True

    # --- measuring and saving -----------------------------------------------------------------------------------------

    def check(self, *, finished: bool = False) -> None:
        """Validate the averaged weights, and write a sample grid, a line of the log and the curves.

        Curves are left out when the time budget is over: a busy machine may take seconds to load what draws them.
        The model is saved as the best one if its first validation figure is the lowest so far. Only the first process
        writes, but all must call it.

        Args:
            finished: whether the last step is taken.
        """
        self.figures.read(self.counters.step)  # raises NotFiniteError before a model that is not finite is drawn from
        if self.group.first:
            self._measure()
        self.log(cut_first=True)
        if self.group.first and not self.clock.is_over():
            drawing = self.record.draw_curves(finished=finished)
            self.figures.leave_out(drawing)
            self.clock.check_seconds += drawing
        self.agenda.checked(self.counters.step)

    def _measure(self) -> None:
        """Validate the averaged weights and write a sample grid, and the model if it is the best one so far."""
        began, model = time.monotonic(), self.model()
        untrained = self.counters.step == 0 and self.config.run.init is None
        quick = untrained or not self.clock.leaves_time_for_a_check()
        effort = {"images": QUICK_IMAGES, "nfe": QUICK_NFE} if quick else {}
        # A training step evaluates two points per image.
        found = self.trainer.micro_batch.fit(lambda at_once: self.checks.check(model, batch_size=2 * at_once, **effort))
        self.validation, self.sample_accuracy = found.validation, found.sample_accuracy
        self.seconds_per_gradient = found.seconds_per_image
        ending = full_cost(model) + (matching_cost(model) if self.config.run.match else 0)
        self.clock.calibration_seconds = found.seconds_per_image * ending
        self.clock.reference_seconds = found.seconds_per_image * least_cost(model)
        self.record.grid(self.counters.step, found.grid)
        first = next(iter(found.validation.values()))
        if math.isnan(self.best) or first < self.best:
            self.best = math.nan if untrained else first  # that of the first check is of fewer data
            model_file.save(self.model(), self.folder.best)
        seconds = time.monotonic() - began
        self.figures.leave_out(seconds)
        self.clock.check_seconds = seconds * self.checks.cost() / self.checks.cost(**effort)

    def return_to_best(self) -> None:
        """Give the averaged weights the values with the lowest validation figure so far. Only the first process does.

        A network with many weights learns a small table by heart, and its last weights are then far from its best ones.
        """
        if not self.group.first or not self.folder.best.is_file():
            return
        best = model_file.load(TrainedModel, self.folder.best, device=str(self.plan.device))
        figures = best.about["figures"]
        if figures == {name: finite_or_none(value) for name, value in self.validation.items()}:
            return
        self.trainer.average.load_state_dict(best.field.state_dict())
        self.validation = {name: math.nan if value is None else value for name, value in figures.items()}
        self.record.saved = None  # the state is written with these weights, even if this step was saved before

    def log(self, *, cut_first: bool = False) -> None:
        """Write a log line and begin the next one.

        Args:
            cut_first: whether lines of this step and of later ones are removed first.
        """
        if self.group.first:
            self._memory_bytes = memory_in_use(self.plan.device)
            self.record.line(self.progress(), cut_first=cut_first)
        self.figures.start(self.counters.step)

    def save(self, status: str, model: TrainedModel | None = None) -> None:
        """Write state, model, card and status. Only the first process writes, but all must call it.

        Args:
            status: the status of the run from now on.
            model: the model to write; None writes that of the present step.
        Raises:
            NotFiniteError: a loss or gradient that was not read yet is not finite. Nothing is written.
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
        self.record.save(status, self._present_counters(), self.trainer.tensors, model or self.model(), about)

    # --- reporting ----------------------------------------------------------------------------------------------------

    def model(self) -> TrainedModel:
        """The model of the present step, with the averaged weights."""
        return self.record.model(self._present_counters(), self.validation)

    def progress(self, *, calibrating: bool = False) -> Progress:
        """The progress of the run at the present step."""
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
            memory_bytes=self._memory_bytes,
            calibrating=calibrating,
        )

    def report(self, *, calibrating: bool = False) -> None:
        """Call `on_step` with the progress of the run, in the first process."""
        if self.on_step is not None and self.group.first:
            self.on_step(self.progress(calibrating=calibrating))

    def result(self, status: str, model: TrainedModel) -> Result[TrainedModel]:
        """The result of the run, if the session ends at the present step."""
        counters = self._present_counters()
        images = counters.step * (self.config.optimiser.batch_size or 0)
        newly_unreadable = [entry for entry in self.plan.images.skipped if entry not in self._known_unreadable]
        unreadable = (f"left out {in_words(newly_unreadable)}",) if newly_unreadable else ()
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
            notes=unreadable,
            remarks=self.trainer.method.remarks(),
        )

    def _present_counters(self) -> Counters:
        """The counters, with the seconds of all sessions up to now."""
        return replace(self.counters, seconds=self.clock.seconds())
