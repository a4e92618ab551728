"""What a run leaves in its folder: settings, log, grids, state, model, card. One process writes it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vpfb_core
from vpfb_core.config import OPERATIONAL, TrainConfig, as_json, to_toml
from vpfb_core.data.unreadable import table
from vpfb_core.errors import DataError
from vpfb_core.machine.container import finite_or_none
from vpfb_core.machine.files import clear_leftovers, write_bytes
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model.runs import Run, new_run
from vpfb_core.model.trained import Model
from vpfb_core.training import log
from vpfb_core.training.card import model_card
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.report import Progress
from vpfb_core.training.state import Counters, save_state, set_aside, write_status
from vpfb_core.uses.pictures import png, tile


def new_folder(config: TrainConfig) -> Run:
    """The folder that was named, or the next numbered one; made."""
    if config.out is None:
        return new_run(config.data)
    folder = Run(Path(config.out))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder.path}: {error.strerror or error}") from error
    return folder


class Record:
    """A run folder while its run goes on.

    Args:
        inputs: of the run.
        folder: of the run.
        average: the potential with the averaged weights.

    Attributes:
        fingerprint: of the data.
        saved: where the run was when its newest state was written; None while there is none.
        saved_at: when something was saved last, by the monotonic clock.
    """

    def __init__(self, inputs: Inputs, folder: Run, average: Potential) -> None:
        self.inputs, self.plan, self.folder, self.average = inputs, inputs.plan, folder, average
        self.fingerprint = self.plan.images.fingerprint()
        self.saved: Counters | None = None
        self.saved_at = time.monotonic()

    def begin(self, counters: Counters, damaged: Iterable[Path] = ()) -> None:
        """Write what stands before the first step; cut the log where the state is.

        Args:
            damaged: states newer than the one that was read.
        """
        set_aside(self.folder, damaged)
        for folder in (self.folder.path, self.folder.samples):
            clear_leftovers(folder)
        write_bytes(self.folder.config, to_toml(self._kept_config()).encode())
        log.cut(self.folder.log, counters.step)
        self.status("running", counters)
        self.saved_at = time.monotonic()

    def line(self, progress: Progress, *, anew: bool) -> None:
        """One line of log.csv; anew at the ends of a run, since a session that was killed may have come as far."""
        if anew:
            log.cut(self.folder.log, progress.step - 1)
        log.append(self.folder.log, asdict(progress))

    def grid(self, step: int, images: Tensor) -> None:
        """Images (N, C, H, W) as a picture among the samples."""
        write_bytes(self.folder.samples / f"step-{step:07d}.png", png(tile(images)))

    def status(self, status: str, counters: Counters) -> None:
        """The sidecar of the state."""
        write_status(self.folder, status, counters, self.plan.requested)

    def save(
        self, status: str, counters: Counters, tensors: Callable[[], dict[str, Tensor]], model: Model, **about: Any
    ) -> None:
        """Write state, model, card and status.

        Args:
            tensors: of the trainer; not asked for where the state of this step is there already, since the one before
                it is worth more than a copy.
            about: what else resuming wants to know.
        """
        if self.saved is None or self.saved.step != counters.step:
            about |= {"data": self.fingerprint, "config": self.decisive(), "versions": versions()}
            save_state(self.folder, tensors(), counters, about, self.plan.config.keep)
            self.saved = counters
        model.save(self.folder.model)
        write_bytes(self.folder.card, model_card(model).encode())
        if skipped := self.plan.images.skipped:
            write_bytes(self.folder.skipped, table(skipped))
        self.status(status, counters)
        self.saved_at = time.monotonic()

    def model(self, counters: Counters, val_residual: float) -> Model:
        """The model as it stands, with the averaged weights."""
        plan, images = self.plan, self.plan.images
        return Model(
            potential=self.average,
            network=plan.network,
            statistics=self.inputs.statistics,
            shape=self.inputs.measured.shape,
            groups=images.groups,
            about={
                "data": {"name": images.name, "images": len(images), "fingerprint": self.fingerprint},
                "step": counters.step,
                "seconds": counters.seconds,
                "device": plan.config.device,
                "seed": plan.config.seed,
                "figures": {"val_residual": finite_or_none(val_residual)},
                "config": as_json(self._kept_config()),
                "versions": versions(),
            },
        )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what is computed, as JSON gives them back."""
        settings = self.plan.config.to_dict()
        return as_json({name: value for name, value in settings.items() if name not in OPERATIONAL})

    def _kept_config(self) -> dict[str, Any]:
        """The configuration without what concerns only how this session was started."""
        return {name: value for name, value in self.plan.config.to_dict().items() if name not in ("out", "resume")}


def versions() -> dict[str, str]:
    """Of what a model depends on."""
    return {"vpfb": vpfb_core.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
