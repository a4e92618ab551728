"""The loop around the steps: progress, held-out residual, sample grids, saving, stopping, and what ends a run."""

from __future__ import annotations

import contextlib
import csv
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vpfb_core
from vpfb_core import noise
from vpfb_core.checkpoint import finite_or_none
from vpfb_core.config import TrainConfig, to_toml
from vpfb_core.data.split import split
from vpfb_core.devices import memory_in_use
from vpfb_core.errors import CheckpointError, ConfigError, DivergedError
from vpfb_core.files import write_bytes
from vpfb_core.model import Model, Statistics
from vpfb_core.objectives import residual
from vpfb_core.pictures import png, tile
from vpfb_core.runs import Run, new_run
from vpfb_core.training.card import model_card
from vpfb_core.training.plan import Plan, prepare
from vpfb_core.training.state import Counters, locked, read_state, save_state, write_status
from vpfb_core.training.trainer import Trainer

GRID_IMAGES = 64
HELD_OUT_IMAGES = 512  # of the held-out images, those that the residual is measured on
SAVE_SECONDS = 60.0  # between saves, unless save_every says otherwise
CHECKS = 20  # residual and grid this often in a run, unless sample_every says otherwise
MAX_ROLLBACKS = 5


@dataclass(frozen=True)
class Progress:
    """Where a run is, as `on_step` hears after every step. Figures are of the last time that they were measured."""

    step: int
    fraction: float
    seconds: float
    loss: float
    val_residual: float
    grad_norm: float
    lr: float
    images_per_second: float
    memory_bytes: int


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


def train(
    config: TrainConfig,
    *,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a model; `prepare` and `run` in one. Arguments and errors as theirs."""
    return run(prepare(config), on_step=on_step, should_stop=should_stop)
