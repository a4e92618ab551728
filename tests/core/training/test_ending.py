"""Calibration at the end of a run: it stops at the deadline of a time budget, and the model keeps what was done."""

from __future__ import annotations

import time
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import vpfb_core as vpfb
from vpfb_core.training import ending
from vpfb_core.training.clock import Clock


def calibrated_in_time(
    calibrate: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    budget: float = 1000.0,
    stop: bool = False,
    steps: int = 100,
    late: float = 0.0,
) -> tuple[Any, bool]:
    """A model and whether it was calibrated, where `calibrate(model, gradients)` takes the place of the work."""
    config = vpfb.TrainConfig(data="digits", time_budget=budget, batch_size=10)
    images = types.SimpleNamespace(subset=lambda rows: rows)
    inputs: Any = types.SimpleNamespace(plan=types.SimpleNamespace(config=config, images=images), rows=torch.arange(9))
    model: Any = types.SimpleNamespace(field=types.SimpleNamespace(network=nn.Identity()), calibration=None)
    whole: Any = types.SimpleNamespace(fit=lambda work: work(8))

    def replaced(
        model: Any,
        _images: object,
        _seed: int,
        gradients: int,
        batch_size: int,
        trained_on: torch.Tensor,
        on_step: Callable[[], None],
    ) -> None:
        assert (batch_size, trained_on.tolist()) == (16, list(range(9)))
        on_step()
        calibrate(model, gradients)

    monkeypatch.setattr(ending, "calibrate", replaced)
    monkeypatch.setattr(ending, "least_cost", lambda _model: 500)
    done = ending.calibrate_in_time(
        model, inputs, steps, Clock(config, time.monotonic() - late), 0.5, whole, lambda: stop
    )
    assert not model.field.network._forward_pre_hooks, "nothing is left on the network"
    return model, done


def test_the_model_keeps_what_was_done_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(model: Any, _gradients: int) -> None:
        model.calibration = "constants"
        for _ in range(10_000):
            time.sleep(0.01)
            model.field.network(torch.zeros(1))
        model.calibration = "never reached"

    began = time.monotonic()
    model, done = calibrated_in_time(slow, monkeypatch, budget=1.0)
    assert (model.calibration, done) == ("constants", True)
    assert time.monotonic() - began < 10


def test_a_request_to_stop_leaves_calibration_for_the_next_session(monkeypatch: pytest.MonkeyPatch) -> None:
    _, done = calibrated_in_time(lambda model, _: model.field.network(torch.zeros(1)), monkeypatch, stop=True)
    assert not done


def test_calibration_plans_no_more_gradients_than_fit_into_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    for budget, steps in ((100.0, 10_000), (1e6, 100), (1e6, 3)):
        calibrated_in_time(lambda _, gradients: asked.append(gradients), monkeypatch, budget=budget, steps=steps)
    assert 150 <= asked[0] <= 200, "100 s at half a second each"
    assert asked[1] == 1050, "0.15 of the 7 gradients per image of 100 steps of 10 images"
    assert asked[2] == 500, "the smallest reference"


def test_nothing_is_calibrated_after_the_end_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    _, done = calibrated_in_time(lambda *_: pytest.fail("too late"), monkeypatch, late=2000.0)
    assert done
