"""Runs that are asked to stop on the way, and the states that runs leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.machine import container
from vpfb_core.model.runs import Run
from vpfb_core.training import Progress, Result


def train(config: vpfb.TrainConfig, stop_after: int | None = None) -> Result[vpfb.Model]:
    """A run, asked to stop after some steps of this session."""
    taken = 0

    def count(_progress: Progress) -> None:
        nonlocal taken
        taken += 1

    return vpfb.train(config, on_step=count, should_stop=lambda: taken == stop_after)


def state_of(run: Run | Path | str) -> dict[str, Tensor]:
    """The tensors of the last state that a run saved."""
    run = run if isinstance(run, Run) else Run(Path(run))
    return container.read(run.state, "state").tensors


def assert_equal_bit_for_bit(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
