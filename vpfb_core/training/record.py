"""The files of a run folder: settings, log, curves, sample grids, state, model and card. One process writes them."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpfb_core import names
from vpfb_core.config import TrainConfig, as_json, to_toml
from vpfb_core.data.catalogue import absolute
from vpfb_core.data.unreadable import table
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.container import finite_or_none
from vpfb_core.machine.files import clear_leftovers, write_bytes
from vpfb_core.machine.launch import process_rank
from vpfb_core.machine.open_folder import OpenFolder
from vpfb_core.machine.origin import Origin
from vpfb_core.methods.fields import Field
from vpfb_core.model import model_file, run_data, run_log
from vpfb_core.model.runs import Run, new_run
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training.plan import Plan
from vpfb_core.training.progress import Progress
from vpfb_core.training.state import Counters, save_state, set_aside, write_status
from vpfb_core.training.tensorboard import Events
from vpfb_core.uses.measuring.masks import keep_masks
from vpfb_core.uses.plotting.curves import curves
from vpfb_core.uses.snapshots import snapshot

DRAWING_SHARE = 20  # the shortest time between drawings of the curves, as a multiple of the duration of one


def new_folder(config: TrainConfig) -> Run:
    """Create the run folder that was named, or the next numbered one."""
    if config.run.out is None:
        source = config.data.source
        return new_run(source if Path(source).name not in ("", "..") else absolute(source))
    folder = Run(Path(config.run.out))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder.path}: {error.strerror or error}") from error
    return folder


class Record:
    """The folder of a run in progress.

    Args:
        plan: the plan of the run.
        folder: the run folder.
        average: the field with the averaged weights.

    Attributes:
        fingerprint: the fingerprint of the data.
        saved: the counters of the newest saved state; None before the first one.
        saved_at: the time of the last save, by the monotonic clock.
        save_seconds: the duration of the last save.
    """

    def __init__(self, plan: Plan, folder: Run, average: Field) -> None:
        self.plan, self.average = plan, average
        self._run = folder
        # The processes after the first may not even see the folder.
        self._open = OpenFolder(folder.path) if process_rank().first else None
        self.fingerprint = self.plan.images.fingerprint()
        self._origin = Origin(seed=plan.config.run.seed)
        self._location = run_data.location(self.plan.config.data.source, folder)
        self.columns = run_log.columns([f"val_{name}" for name in self.plan.method.figures])
        self.saved: Counters | None = None
        self.saved_at, self.save_seconds = time.monotonic(), 0.0
        self._drawn_at, self._drawing_seconds = -math.inf, 0.0
        self._events: Events | None = None

    @property
    def folder(self) -> Run:
        """The run folder, which is followed if it is renamed. Raises DataError if it was removed."""
        return self._run if self._open is None else Run(self._open.path())

    def close(self) -> None:
        """Close the run folder and the TensorBoard events."""
        if self._events is not None:
            self._events.close()
        if self._open is not None:
            self._open.close()

    def begin(self, counters: Counters, damaged: Iterable[Path] = ()) -> None:
        """Write the files of the beginning of a session, and cut the log at the step of the state.

        Args:
            counters: the counters of the state.
            damaged: damaged states that are newer than the one that was read.
        """
        set_aside(self.folder, damaged)
        for folder in (self.folder.path, self.folder.samples):
            clear_leftovers(folder)
        keep_masks(self.folder.masks, self.plan.config.run.match or ())
        write_bytes(self.folder.config, to_toml(self._kept_config()).encode())
        self.cut_log(counters.step)
        if self.plan.config.run.log == "tensorboard":
            self._events = Events(self.folder.events, counters.step)
        self.status("running", counters)
        self.saved_at = time.monotonic()

    def line(self, progress: Progress, *, cut_first: bool) -> None:
        """Append a line to log.csv.

        Args:
            cut_first: whether the lines of this step and of later ones are removed first. A session that was killed may
                have written them.
        """
        if cut_first:
            self.cut_log(progress.step - 1)
        run_log.append(self.folder.log, self.columns, progress.row())
        if self._events is not None:
            self._events.line(progress.step, progress.row())

    def cut_log(self, step: int) -> None:
        """Remove the lines of the log after `step`."""
        run_log.cut(self.folder.log, self.columns, step)

    def grid(self, step: int, samples: Tensor) -> None:
        """Write samples as a file that shows them: a grid of images, or rows."""
        shown = snapshot(self.plan.statistics, samples, self._origin)
        write_bytes(self.folder.samples / f"step-{step:07d}{shown.ending}", shown.content)
        if self._events is not None and shown.picture is not None:
            self._events.grid(step, shown.picture)

    def draw_curves(self, *, finished: bool) -> float:
        """Draw the log, if there are two lines to draw and the last drawing was long enough ago.

        Args:
            finished: whether the run is finished. The curves are then drawn at any rate.
        Returns:
            The duration in seconds.
        """
        began, log = time.monotonic(), run_log.read(self.folder.log)
        rested = began - self._drawn_at >= DRAWING_SHARE * self._drawing_seconds
        if len(log.get("step", ())) < 2 or not (rested or finished):
            return 0.0
        write_bytes(self.folder.curves, curves({self.folder.path.name: log}, self._origin))
        self._drawn_at = time.monotonic()
        self._drawing_seconds = self._drawn_at - began
        return self._drawing_seconds

    def status(self, status: str, counters: Counters) -> None:
        """Write the status of the run."""
        write_status(self.folder, status, counters, self.plan.requested, self._location)

    def save(
        self,
        status: str,
        counters: Counters,
        tensors: Callable[[], dict[str, Tensor]],
        model: TrainedModel,
        about: Mapping[str, Any],
    ) -> None:
        """Write state, model, card and status.

        Args:
            status: the status of the run.
            counters: the counters of the state.
            tensors: returns the tensors of the trainer. It is not called if the state of this step is already saved,
                since a copy would replace an earlier state.
            model: the model with the averaged weights.
            about: other facts that resuming needs.
        """
        began = time.monotonic()
        if self.saved is None or self.saved.step != counters.step:
            kept = {"data": self.fingerprint, "config": self.decisive(), "versions": versions()}
            save_state(self.folder, tensors(), counters, {**about, **kept}, self.plan.config.run.keep)
            self.saved = counters
        model_file.save(model, self.folder.model)
        write_bytes(self.folder.card, model_card(model).encode("utf-8", "surrogateescape"))
        if skipped := self.plan.images.skipped:
            write_bytes(self.folder.skipped, table(skipped))
        self.status(status, counters)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - began

    def model(self, counters: Counters, figures: Mapping[str, float]) -> TrainedModel:
        """The model at this step, with the averaged weights."""
        plan, images = self.plan, self.plan.images
        return TrainedModel(
            method=plan.method,
            field=self.average,
            network=plan.network,
            statistics=plan.statistics,
            shape=images.shape,
            groups=images.groups,
            about={
                "data": {"name": images.name, "images": len(images), "fingerprint": self.fingerprint},
                "step": counters.step,
                "seconds": counters.seconds,
                "device": plan.config.machine.device,
                "seed": plan.config.run.seed,
                "figures": {name: finite_or_none(value) for name, value in figures.items()},
                "config": as_json(self._kept_config()),
                "versions": versions(),
            },
        )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what is computed, as JSON values."""
        return as_json(self.plan.config.decisive())

    def _kept_config(self) -> dict[str, Any]:
        """The configuration without the settings that only concern the start of this session."""
        sections = self.plan.config.to_dict()
        sections["run"] = {name: value for name, value in sections["run"].items() if name not in ("out", "resume")}
        return sections


def versions() -> dict[str, str]:
    """The versions of vpfb, torch and Python."""
    return {"vpfb": names.VERSION, "torch": str(torch.__version__), "python": platform.python_version()}


def model_card(model: TrainedModel) -> str:
    """The README.md of a run folder: its data, size and figures, its use, and its settings."""
    about, shape = model.about, model.shape
    classes = "; ".join(f"{group.name}: {', '.join(group.classes)}" for group in model.groups) or "none"
    datum = (
        f"{shape[1]}x{shape[2]}, {'colour' if shape[0] == 3 else 'grey'}"
        if len(shape) == 3
        else counted(shape[0], "columns")
    )
    figures = [
        f"| {name} | {'not measured' if value is None else f'{value:.4f}'} |"
        for name, value in about["figures"].items()
    ]
    rows = [
        f"| method | {model.method.name}: {names.METHODS[model.method.name].summary} |",
        f"| data | {counted(about['data']['images'], 'data')} of {about['data']['name']}, {datum} |",
        f"| classes | {classes} |",
        f"| parameters | {model.parameter_count:,} |",
        f"| trained | {counted(about['step'], 'steps')}, {about['seconds']:.0f} s on {about['device']} |",
        *figures,
        f"| seed | {about['seed']} |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in about['versions'].items())} |",
    ]
    table_rows = "\n".join(rows)
    return f"""# A vpfb model of {about["data"]["name"]}

| | |
|---|---|
{table_rows}

Validation figures are of held-out data. The first one chooses the best weights, and lower is better.

    vpfb sample -m THIS_FOLDER -n 64 -o grid.png

```python
import vpfb_core as vpfb
images = vpfb.load("THIS_FOLDER").sample(64, seed=0).images
```

The settings it was trained with:

```toml
{to_toml(about["config"])}```
"""
