"""The loop around the steps: progress, held-out residual, sample grids, saving, stopping, and what ends a run."""

from __future__ import annotations

import contextlib
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vpfb_core
from vpfb_core.checkpoint import finite_or_none
from vpfb_core.config import OPERATIONAL, TrainConfig, as_json, to_toml
from vpfb_core.data.decoding import warnings_silenced
from vpfb_core.data.split import split
from vpfb_core.data.unreadable import counted, table
from vpfb_core.devices import keeping_freed_memory, memory_in_use
from vpfb_core.errors import CheckpointError, ConfigError, DataError, DivergedError
from vpfb_core.files import clear_leftovers, write_bytes
from vpfb_core.finish import IMAGES, SHARE, affordable, finish, full_cost
from vpfb_core.loading import load
from vpfb_core.model import Model, Statistics
from vpfb_core.normaliser import Normaliser
from vpfb_core.pictures import png, tile
from vpfb_core.reference import Reference
from vpfb_core.runs import Run, new_run
from vpfb_core.training import log
from vpfb_core.training.card import model_card
from vpfb_core.training.held_out import HELD_OUT_IMAGES, held_out_of, spread
from vpfb_core.training.plan import Plan, prepare
from vpfb_core.training.state import Counters, locked, read_state, save_state, set_aside, write_status
from vpfb_core.training.streamed_batches import training_batches
from vpfb_core.training.trainer import Trainer

GRID_IMAGES = 64
GRID_NFE = 12
LOG_SECONDS = 2.0  # between lines of the log, unless log_every says otherwise
SAVE_SECONDS = 60.0  # between saves, unless save_every says otherwise
CHECKS = 10  # residual and grid this often in a run, unless sample_every says otherwise
MAX_ROLLBACKS = 5


@dataclass(frozen=True)
class Progress:
    """Where a run is, as `on_step` hears after every step, and at both ends of the model's calibration after the
    last (`finishing`). Figures are of the last time that they were measured."""  # fmt: skip

    step: int
    fraction: float
    seconds: float
    loss: float
    val_residual: float
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
        val_residual: held-out residual at the end.
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
) -> Result:
    """Carry out a plan: begin or go on with its run, train, and leave a whole run folder.

    Args:
        plan: from `prepare`.
        on_step: hears of every step.
        should_stop: asked after every step; once it says True the run is saved and left as "interrupted".
    Raises:
        ConfigError: the run is held by another process, or the data is not what it was begun with.
        DivergedError: a non-finite loss or gradient; the last good state is kept.
        DataError: the folder cannot be written, or images that are read while training cannot be read.
        CheckpointError: the state to resume from is damaged.
    """
    folder = plan.existing or _new_folder(plan.config)
    with (
        locked(folder),
        _threads(plan.config.threads),
        keeping_freed_memory(plan.device),
        warnings_silenced(),
        contextlib.closing(_Loop(plan, folder, on_step)) as loop,
    ):
        return loop.run(should_stop or (lambda: False))


def _new_folder(config: TrainConfig) -> Run:
    if config.out is None:
        return new_run(config.data)
    folder = Run(Path(config.out))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder.path}: {error.strerror or error}") from error
    return folder


class _StopAsked(Exception):  # noqa: N818 (it is no error)
    """Finishing a run was interrupted by a wish to stop."""


class _Loop:
    """A run while it is carried out."""

    def __init__(self, plan: Plan, folder: Run, on_step: Callable[[Progress], None] | None) -> None:
        self.plan, self.folder, self.on_step = plan, folder, on_step
        self.config, self.device = plan.config, plan.device
        images = plan.images
        self.known_unreadable = frozenset(images.skipped)
        self.statistics = Statistics.of(images.sample)
        train_rows, val_rows = split(images, self.config.val_fraction, self.config.seed)
        held_out = images.subset(val_rows)
        self.batches = training_batches(plan, train_rows, held_out)
        self.trainer = Trainer(self.config, plan.network, self.batches, self.statistics, self.device)
        measured = held_out if len(held_out) else images.subset(spread(train_rows, HELD_OUT_IMAGES))
        self.held_out = held_out_of(plan, measured, self.trainer, self.statistics)
        self.train_rows = train_rows
        self.points = 2 * (self.config.batch_size or 1)  # at once, as many as a step takes: they fit into the memory
        self.fingerprint = images.fingerprint()
        self.normaliser: Normaliser | None = None
        self.reference: Reference | None = None
        self.counters = Counters()
        self.unread: list[tuple[Tensor, Tensor]] = []
        self.losses: list[float] = []
        self.loss = self.val_residual = self.grad_norm = math.nan
        self.check_seconds = self.finish_seconds = self.rate = 0.0
        self.saved_at = self.logged_at = self.started = time.monotonic()
        self.session_seconds, self.logged_step = 0.0, 0
        self.saved_step: int | None = None  # of the newest state
        self.damaged: tuple[Path, ...] = ()  # states newer than the one that was read

    def run(self, should_stop: Callable[[], bool]) -> Result:
        self._restore()
        if self.folder.finished and self._reload():
            return self._result("already finished")
        self._begin()
        if self.counters.step == 0:
            self._check()
            self._log_anew()
            self._save("running")
        next_check = self._fraction() + 1 / CHECKS
        while self._fraction() < 1 or not self._read_figures():
            if not self._step():
                next_check = self._fraction() + 1 / CHECKS
                continue
            if should_stop() and self._save("interrupted"):
                return self._result("interrupted")
            if self._fraction() >= 1:
                continue
            if self._due(self.config.sample_every, self._fraction() >= next_check):
                self._check()
                next_check = self._fraction() + 1 / CHECKS
            if self._due(self.config.save_every, time.monotonic() - self.saved_at > SAVE_SECONDS):
                self._save("running")
        self._check()
        self._log_anew()
        self._save("running")  # whatever finishing meets, the weights are safe
        status = "finished" if self._finish(should_stop) else "interrupted"
        self._save(status)
        return self._result(status)

    def close(self) -> None:
        """Let go of the data."""
        self.batches.close()

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Go on from the newest whole state, if there is one."""
        state = read_state(self.folder)
        if state is None:
            return
        kept = state.document
        try:
            self._require_same(kept["data"], kept.get("config", {}))
            self.val_residual = math.nan if kept["val_residual"] is None else float(kept["val_residual"])
            self.check_seconds, self.finish_seconds = float(kept["check_seconds"]), float(kept["finish_seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{state.path} does not say what it is the state of") from error
        self.counters = state.counters
        self._load(state.tensors)
        self.saved_step = self.counters.step if state.path == self.folder.state else None
        for _, damage in state.damaged:
            went_on = f"going on from step {self.counters.step}, the save before it"
            warnings.warn(f"{damage.message}; {went_on}", stacklevel=2)
        self.damaged = tuple(path for path, _ in state.damaged)

    def _require_same(self, fingerprint: str, config: dict[str, Any]) -> None:
        """A run goes on with the data and the settings that it was begun with."""
        if fingerprint != self.fingerprint:
            raise ConfigError(
                f"the data {self.config.data!r} is not what {self.folder.path} was begun with",
                hint="bring the images back as they were, or begin another run",
            )
        for name, value in self._decisive().items():
            if config.get(name, value) != value:
                raise ConfigError(
                    f"{self.folder.config} has {name} = {value}, but the run was begun with {config[name]}",
                    hint="put it back as it was, or begin another run",
                )

    def _reload(self) -> bool:
        """Take over what finishing measured; False if the model is lost, but there is a state to make it of."""
        try:
            finished = load(self.folder.model, device=self.config.device)
        except CheckpointError as error:
            if not self.counters.step:
                raise
            warnings.warn(f"{error.message}; it is made anew", stacklevel=2)
            return False
        self.normaliser, self.reference = finished.normaliser, finished.reference
        return True

    def _load(self, tensors: dict[str, Tensor]) -> None:
        try:
            self.trainer.load(tensors, self.counters.step)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder.state} does not fit its run: {error}") from error

    def _begin(self) -> None:
        """Write what stands before the first step; cut the log where the state is."""
        set_aside(self.folder, self.damaged)
        for folder in (self.folder.path, self.folder.samples):
            clear_leftovers(folder)
        write_bytes(self.folder.config, to_toml(self._kept_config()).encode())
        log.cut(self.folder.log, self.counters.step)
        write_status(self.folder, "running", self.counters, self.plan.requested)
        self.session_seconds = self.counters.seconds
        self.started = self.saved_at = self.logged_at = time.monotonic()
        self.logged_step = self.counters.step

    def _kept_config(self) -> dict[str, Any]:
        """The configuration without what concerns only how this session was started."""
        return {name: value for name, value in self.config.to_dict().items() if name not in ("out", "resume")}

    def _decisive(self) -> dict[str, Any]:
        """The settings that decide what is computed, as JSON gives them back."""
        return as_json({name: value for name, value in self.config.to_dict().items() if name not in OPERATIONAL})

    # --- time ---------------------------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        """Spent on the run in all its sessions."""
        return self.session_seconds + time.monotonic() - self.started

    def _fraction(self) -> float:
        """How much of the run is done, in [0, 1], by steps and by time, whichever is further.

        Of a time budget, what the last check, finishing and the last save will take is set aside.
        """
        by_steps = self.counters.step / self.config.steps if self.config.steps else 0.0
        by_time = 0.0
        if self.config.time_budget:
            finishing = min(self.finish_seconds, SHARE / (1 + SHARE) * self.config.time_budget)
            available = max(self.config.time_budget - finishing - 1.5 * self.check_seconds - 1.0, 1e-3)
            by_time = self._seconds() / available
        return min(1.0, max(by_steps, by_time))

    def _due(self, every: int | None, otherwise: bool) -> bool:
        return otherwise if every is None else self.counters.step % every == 0

    # --- one step -----------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Take a step; False if the run was rolled back instead."""
        counters = self.counters
        try:
            self.unread.append(self.trainer.step(counters.step, self._fraction(), counters.rollbacks))
        except DataError:  # images that are read while training: nothing of the step has happened yet
            self._save("interrupted")
            raise
        counters.step += 1
        # Reading figures waits for the device, so on a GPU they are read only where a line of the log is due.
        log_due = self._due(self.config.log_every, time.monotonic() - self.logged_at > LOG_SECONDS)
        if (self.device.type == "cpu" or log_due) and not self._read_figures():
            return False
        if log_due and self._fraction() < 1:  # the last line waits for the last residual
            self._log()
        if self.on_step is not None:
            self.on_step(self._progress())
        return True

    def _read_figures(self) -> bool:
        """Read the losses and gradient norms that are still on the device; False if one made the run roll back."""
        if not self.unread:
            return True
        figures = torch.stack([torch.stack(pair) for pair in self.unread]).tolist()
        first = self.counters.step - len(self.unread)
        self.unread.clear()
        for step, (loss, norm) in enumerate(figures, start=first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._roll_back(step, loss, norm)
                return False
            self.losses.append(loss)
            self.grad_norm = norm
        self.loss = sum(self.losses) / len(self.losses)
        return True

    def _roll_back(self, step: int, loss: float, norm: float) -> None:
        """Return to the last saved state at half the rate, or stop there.

        Raises:
            DivergedError: the run is to stop, or has rolled back too often.
        """
        what = f"step {step}: the loss is {loss:g}, the gradient norm {norm:g}"
        rollbacks, seconds = self.counters.rollbacks + 1, self._seconds()
        state = read_state(self.folder)
        kept = (
            f"the state of step {state.counters.step} is kept in {self.folder.path}" if state else "nothing was saved"
        )
        if state is None or self.config.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
            write_status(self.folder, "diverged", state.counters if state else Counters(), self.plan.requested)
            advice = f"rolled back {rollbacks - 1} times already" if rollbacks > 1 else "try --on-nonfinite rollback"
            raise DivergedError(f"training diverged at {what}", hint=f"{kept}; {advice}, or a lower --lr")
        self.counters = Counters(state.counters.step, seconds, rollbacks)
        self.saved_step = None
        self._load(state.tensors)
        log.cut(self.folder.log, self.counters.step)
        self.session_seconds, self.started = seconds, time.monotonic()
        self.losses.clear()
        self.logged_step = self.counters.step

    # --- what is written ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Measure the held-out residual and draw the grid of the run's fixed noise, both with the averaged weights."""
        began, model = time.monotonic(), self._model()
        self.val_residual = self.held_out.residual(model.potential, self.points)
        self.finish_seconds = (time.monotonic() - began) / len(self.held_out.data) * full_cost(model)
        images, _ = model.sample(
            GRID_IMAGES, self.config.seed, nfe=GRID_NFE, batch_size=min(GRID_IMAGES, self.points), return_info=True
        )
        write_bytes(self.folder.samples / f"step-{self.counters.step:07d}.png", png(tile(images)))
        self.check_seconds = time.monotonic() - began

    def _finish(self, should_stop: Callable[[], bool]) -> bool:
        """Calibrate the averaged weights; in proportion to the run, so that a short one is not held up.

        False if it was asked to stop meanwhile: it is then to be done again.
        """
        model, config = self._model(), self.config
        if self.on_step is not None:
            self.on_step(replace(self._progress(), finishing=True))
        images = self.plan.images.subset(spread(self.train_rows, IMAGES))

        def ask(*_evaluation: object) -> None:
            if should_stop():
                raise _StopAsked

        asking = model.potential.network.register_forward_pre_hook(ask)
        try:
            finish(model, images, config.seed, affordable(self.counters.step * (config.batch_size or 0)), self.points)
        except _StopAsked:
            return False
        finally:
            asking.remove()
        if self.on_step is not None:
            self.on_step(self._progress())
        self.normaliser, self.reference = model.normaliser, model.reference
        return True

    def _log(self) -> None:
        """One line of log.csv."""
        log.append(self.folder.log, asdict(self._progress()))
        self.losses.clear()
        self.logged_at, self.logged_step = time.monotonic(), self.counters.step

    def _log_anew(self) -> None:
        """The same, at the ends of a run: a session that was killed may have come as far."""
        log.cut(self.folder.log, self.counters.step - 1)
        self._log()

    def _progress(self) -> Progress:
        since, counters = time.monotonic() - self.logged_at, self.counters
        if since > 1 or not self.rate:  # over less than a second it would jump
            self.rate = (counters.step - self.logged_step) * (self.config.batch_size or 0) / max(since, 1e-9)
        return Progress(
            step=counters.step,
            fraction=self._fraction(),
            seconds=self._seconds(),
            loss=self.loss,
            val_residual=self.val_residual,
            grad_norm=self.grad_norm,
            lr=self.trainer.learning_rate(counters.step, self._fraction(), counters.rollbacks),
            images_per_second=self.rate,
            memory_bytes=memory_in_use(self.device),
        )

    def _save(self, status: str) -> bool:
        """Write state, model, card and status; False if the figures not yet read made the run roll back."""
        if not self._read_figures():
            return False
        counters = Counters(self.counters.step, self._seconds(), self.counters.rollbacks)
        about = {"data": self.fingerprint, "config": self._decisive(),
                 "val_residual": finite_or_none(self.val_residual), "check_seconds": self.check_seconds,
                 "finish_seconds": self.finish_seconds, "versions": _versions()}  # fmt: skip
        if self.saved_step != counters.step:  # else the state is there, and the one before it is worth more than a copy
            save_state(self.folder, self.trainer.tensors(), counters, about, self.config.keep)
            self.saved_step = counters.step
        model = self._model()
        model.save(self.folder.model)
        write_bytes(self.folder.card, model_card(model).encode())
        if skipped := self.plan.images.skipped:
            write_bytes(self.folder.skipped, table(skipped))
        write_status(self.folder, status, counters, self.plan.requested)
        self.saved_at = time.monotonic()
        return True

    def _model(self) -> Model:
        """The model as it stands, with the averaged weights."""
        images = self.plan.images
        return Model(
            potential=self.trainer.average,
            network=self.plan.network,
            statistics=self.statistics,
            shape=images.shape,
            groups=images.groups,
            about={
                "data": {"name": images.name, "images": len(images), "fingerprint": self.fingerprint},
                "step": self.counters.step,
                "seconds": self._seconds(),
                "device": self.config.device,
                "seed": self.config.seed,
                "figures": {"val_residual": finite_or_none(self.val_residual)},
                "config": as_json(self._kept_config()),
                "versions": _versions(),
            },
            normaliser=self.normaliser,
            reference=self.reference,
        )

    def _result(self, status: str) -> Result:
        counters, seconds = self.counters, self._seconds()
        images = counters.step * (self.config.batch_size or 0)
        return Result(
            run=self.folder,
            status=status,
            model=self._model(),
            step=counters.step,
            images=images,
            seconds=seconds,
            images_per_second=images / seconds if seconds else 0.0,
            loss=self.loss,
            val_residual=self.val_residual,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        met = [entry for entry in self.plan.images.skipped if entry not in self.known_unreadable]
        return (f"left out {counted(met)}",) if met else ()


def _versions() -> dict[str, str]:
    return {"vpfb": vpfb_core.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads, and leave the process as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
